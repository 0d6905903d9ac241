"""The contract: what the runs recorded, before any table or figure of them is made."""


localrules:
    check_contract,


rule check_contract:
    input:
        summaries=summaries(),
        tunings=tunings(),
    output:
        tables_in_report(table_files(CONTRACT)),
    log:
        f"{OUT}/logs/check_contract.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("check_contract.py"),
        code=lambda w: code("check_contract.py"),
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        grid=json.dumps(GRID),
        baseline=lambda w: EXPERIMENT.comparison.baseline,
        declared=json.dumps({name: arm.varies for name, arm in EXPERIMENT.arms.items()}),
        tunings=lambda w: f"{OUT}/tune/best",
        strict="--strict" if EXPERIMENT.contract.strict else "",
        weights=NO_WEIGHTS,
        folder=subpath(output[0], parent=True),
    shell:
        "python {params.script:q} --runs-dir {params.runs:q} --grid {params.grid:q}"
        " --baseline {params.baseline:q} --declared {params.declared:q} {params.strict}"
        " {params.weights}"
        " --tunings-dir {params.tunings:q}"
        " --output-dir {params.folder:q} 2> {log:q}"
