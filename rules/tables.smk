"""Tables over all runs."""


localrules:
    make_tables,


rule make_tables:
    input:
        summaries=summaries(),
        code=code("make_tables.py"),
    output:
        expand(f"{OUT}/tables/{{table}}", table=TABLES),
    log:
        f"{OUT}/logs/make_tables.log",
    conda:
        "../envs/environment.yaml"
    params:
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        grid=json.dumps(GRID),
        folder=subpath(output[0], parent=True),
    shell:
        "python {input.code[0]} --runs-dir {params.runs:q} --grid {params.grid:q}"
        " --output-dir {params.folder:q} 2> {log:q}"
