"""What a person asks for: it makes no file, so it always runs."""


localrules:
    status,


onstart:
    # At its end Snakemake removes every lock in the folder, those of a call that is still at work too.
    if {job.rule.name for job in workflow.dag.jobs} == {"status"}:
        workflow.persistence.unlock = workflow.persistence.noop


rule status:
    log:
        f"{OUT}/logs/status.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=SCRIPTS / "status.py",
        output=OUT,
        grid=json.dumps(GRID),
    shell:
        "python {params.script:q} --output {params.output:q} --grid {params.grid:q} 2> {log:q}"
