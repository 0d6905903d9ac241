"""What a person asks for: it makes no file, so it always runs."""


localrules:
    status,


rule status:
    log:
        f"{OUT}/logs/status.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("status.py"),
        config=lambda w: json.dumps(config),
        command_line=lambda w: json.dumps(workflow.config_settings.config or {}),
        slurm="--slurm" if submits_jobs() else "",
    shell:
        "python {params.script:q} --config {params.config:q} --command-line {params.command_line:q}"
        " {params.slurm} 2> {log:q}"
