"""What the sweep will take, before anything is trained. It makes no output, so it always runs; on a cluster in a job."""


rule estimate:
    input:
        tokens_at_hand,
    log:
        f"{OUT}/logs/estimate.log",
    retries: 0
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        # A machine without a GPU says all but seconds.
        gpu=int(EXPERIMENT.training.device == "cuda"),
    params:
        script=script("estimate.py"),
        config=lambda w: json.dumps(config),
        command_line=lambda w: json.dumps(workflow.config_settings.config or {}),
        site=lambda w: json.dumps(site()),
        folder=OUT,
    shell:
        "python {params.script:q} --config {params.config:q} --command-line {params.command_line:q}"
        " --site {params.site:q} --output-dir {params.folder:q} > {log:q} 2>&1"
