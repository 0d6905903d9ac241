"""Finished runs, sent to an experiment tracker."""


localrules:
    tracking,
    track,


rule tracking:
    input:
        tracked(),


rule track:
    input:
        summaries=job_outputs(),
    output:
        # update(): they say what was sent already.
        update(job_outputs(RECORD)),
    log:
        job_log("track"),
    conda:
        "../envs/environment.yaml"
    resources:
        limit_s=60,
    params:
        script=script("track.py"),
        code=lambda w: code("track.py"),
        sender=lambda w: code("send_runs.py"),
        tracker=lambda w: EXPERIMENT.tracking,
        project=lambda w: project_name(OUT),
        runs=lambda w: [str(Path(path).parent) for path in expand(job_outputs(), **w)],
        folder=str(tracking_folder()),
        records=subpath(output[0], ancestor=4),
        # One more after a failure, so that the next call runs the rule again.
        failed=failed_to_track,
    shell:
        "python {params.script:q} --tracker {params.tracker:q} --project {params.project:q} --runs {params.runs:q}"
        " --folder {params.folder:q} --output {output:q} --records {params.records:q} --call $PPID"
        " --limit {resources.limit_s} 2> {log:q}"
