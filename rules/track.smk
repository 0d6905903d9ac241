"""Finished runs, sent to an experiment tracker."""


localrules:
    tracking,
    track,


rule tracking:
    input:
        tracked(),


rule track:
    input:
        summaries=expand(RUN, seed=GRID["seed"], allow_missing=True),
        code=code("track.py"),
        sender=code("send_runs.py"),
    output:
        # update(): the record says what was sent already.
        update(TRACKED),
    log:
        f"{OUT}/logs/track/{{dataset}}/{{model}}/{{arm}}.log",
    conda:
        "../envs/environment.yaml"
    resources:
        limit_s=60,
    params:
        tracker=EXPERIMENT.tracking,
        project=project_name(OUT),
        arm=f"{OUT}/runs/{{dataset}}/{{model}}/{{arm}}",
        seeds=GRID["seed"],
        folder=f"{OUT}/tracking/{EXPERIMENT.tracking}",
        # One more after a failure, so that the next call runs the rule again.
        failed=lambda w: failed_attempts(Path(TRACKED.format(**w))),
    shell:
        "python {input.code[0]} --tracker {params.tracker:q} --project {params.project:q} --arm {params.arm:q}"
        " --seeds {params.seeds} --folder {params.folder:q} --output {output:q} --call $PPID"
        " --limit {resources.limit_s} 2> {log:q}"
