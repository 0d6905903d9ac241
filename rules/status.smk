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
        output=OUT,
        grid=json.dumps(GRID),
        trials=json.dumps(EXPERIMENT.trials),
    shell:
        "python {params.script:q} --output {params.output:q} --grid {params.grid:q}"
        " --trials {params.trials:q} 2> {log:q}"
