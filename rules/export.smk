"""Results for other programs."""


localrules:
    export_results,


rule export_results:
    input:
        summaries=summaries(),
        contract=f"{OUT}/tables/contract.csv",
        code=code("export_results.py"),
    output:
        export_files(),
    log:
        f"{OUT}/logs/export_results.log",
    conda:
        "../envs/environment.yaml"
    params:
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        grid=json.dumps(GRID),
        folder=subpath(output[0], parent=True),
    shell:
        "python {input.code[0]} --runs-dir {params.runs:q} --grid {params.grid:q}"
        " --contract {input.contract:q} --output-dir {params.folder:q} 2> {log:q}"
