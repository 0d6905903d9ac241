"""Results for other programs and people: tables with a schema, model cards."""


localrules:
    export_results,
    write_cards,


rule export_results:
    input:
        summaries=summaries(),
        contract=f"{OUT}/tables/contract.csv",
    output:
        export_files(),
    log:
        f"{OUT}/logs/export_results.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("export_results.py"),
        code=lambda w: code("export_results.py"),
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        grid=json.dumps(GRID),
        folder=subpath(output[0], parent=True),
    shell:
        "python {params.script:q} --runs-dir {params.runs:q} --grid {params.grid:q}"
        " --contract {input.contract:q} --output-dir {params.folder:q} 2> {log:q}"


rule write_cards:
    input:
        summaries=summaries(),
        contract=f"{OUT}/tables/contract.csv",
        comparison=f"{OUT}/tables/comparison.csv",
        data=expand(f"{OUT}/data/{{dataset}}/dataset.json", dataset=GRID["dataset"]),
        tokens=expand(
            f"{OUT}/tokens/{{dataset}}/{{model}}.json",
            dataset=GRID["dataset"],
            model=GRID["model"],
        ),
    output:
        # Not in the runs' own folders, which stay as they were trained.
        directory(f"{OUT}/export/models"),
    log:
        f"{OUT}/logs/write_cards.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("write_cards.py"),
        code=lambda w: code("write_cards.py"),
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        grid=json.dumps(GRID),
        datasets=lambda w: as_json(EXPERIMENT.datasets),
        data=lambda w, input: str(Path(input.data[0]).parents[1]),
        tokens=lambda w, input: str(Path(input.tokens[0]).parents[1]),
        weights=NO_WEIGHTS,
    shell:
        "python {params.script:q} --runs-dir {params.runs:q} --grid {params.grid:q}"
        " --contract {input.contract:q} --comparison {input.comparison:q} --datasets {params.datasets:q}"
        " --data-dir {params.data:q} --tokens-dir {params.tokens:q} {params.weights} --output-dir {output:q} 2> {log:q}"
