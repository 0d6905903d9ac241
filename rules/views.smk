"""Views of the finished runs that answer a question: equal cost, attribution, recommendation."""


localrules:
    compare_at_budgets,
    compare_forgetting,
    attribute_changes,
    recommend,


rule compare_at_budgets:
    input:
        summaries=summaries(),
        noise=noise_table(),
        contract=f"{OUT}/tables/contract.csv",
    output:
        tables_in_report(table_files(["equal_cost"])),
    log:
        f"{OUT}/logs/compare_at_budgets.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("compare_at_budgets.py"),
        code=lambda w: code("compare_at_budgets.py"),
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        grid=json.dumps(GRID),
        budgets=as_json(EXPERIMENT.budgets),
        noise=noise_option,
        folder=subpath(output[0], parent=True),
    shell:
        "python {params.script:q} --runs-dir {params.runs:q} --grid {params.grid:q}"
        " --budgets {params.budgets:q} --contract {input.contract:q} {params.noise}"
        " --output-dir {params.folder:q} 2> {log:q}"


rule compare_forgetting:
    input:
        summaries=summaries(),
        contract=f"{OUT}/tables/contract.csv",
    output:
        tables_in_report(table_files(["forgetting"])),
    log:
        f"{OUT}/logs/compare_forgetting.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("compare_forgetting.py"),
        code=lambda w: code("compare_forgetting.py"),
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        grid=json.dumps(GRID),
        baseline=lambda w: EXPERIMENT.comparison.baseline,
        folder=subpath(output[0], parent=True),
    shell:
        "python {params.script:q} --runs-dir {params.runs:q} --grid {params.grid:q} --baseline {params.baseline:q}"
        " --contract {input.contract:q} --output-dir {params.folder:q} 2> {log:q}"


rule attribute_changes:
    input:
        summaries=summaries(),
        data=descriptions(),
        contract=f"{OUT}/tables/contract.csv",
        noise=noise_table(),
    output:
        tables_in_report(table_files(["attribution"])),
    log:
        f"{OUT}/logs/attribute_changes.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("attribute_changes.py"),
        code=lambda w: code("attribute_changes.py"),
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        grid=json.dumps(GRID),
        noise=noise_option,
        factorials=json.dumps(FACTORIALS),
        folder=subpath(output[0], parent=True),
        data=lambda w: f"{OUT}/data",
    shell:
        "python {params.script:q} --runs-dir {params.runs:q} --data-dir {params.data:q} --grid {params.grid:q}"
        " --factorials {params.factorials:q} --contract {input.contract:q} {params.noise}"
        " --output-dir {params.folder:q} 2> {log:q}"


rule recommend:
    input:
        summaries=summaries(),
        data=descriptions(),
        tokens=token_descriptions(),
        contract=f"{OUT}/tables/contract.csv",
        comparison=f"{OUT}/tables/comparison.csv",
        noise=noise_table(),
    output:
        tables_in_report(recommendation_files()),
    log:
        f"{OUT}/logs/recommend.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("recommend.py"),
        code=lambda w: code("recommend.py"),
        templates=lambda w: templates_of("recommendation"),
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        grid=json.dumps(GRID),
        noise=noise_option,
        limits=as_json(EXPERIMENT.recommendation),
        folder=subpath(output[0], parent=True),
        data=lambda w: f"{OUT}/data",
        tokens=lambda w: f"{OUT}/tokens",
    shell:
        "python {params.script:q} --runs-dir {params.runs:q} --data-dir {params.data:q} --grid {params.grid:q}"
        " --tokens-dir {params.tokens:q}"
        " --comparison {input.comparison:q} --limits {params.limits:q}"
        " --contract {input.contract:q} {params.noise}"
        " --output-dir {params.folder:q} 2> {log:q}"
