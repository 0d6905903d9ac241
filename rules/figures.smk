"""Figures of one data set and model."""


localrules:
    make_figures,


rule make_figures:
    input:
        runs=f"{OUT}/tables/runs.csv",
        comparison=f"{OUT}/tables/comparison.csv",
        tuning=tuning_csv(),
        noise=noise_table(),
    output:
        figures_in_report(figure_files("{dataset}", "{model}")),
    log:
        f"{OUT}/logs/make_figures/{{dataset}}/{{model}}.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("make_figures.py"),
        code=lambda w: code("make_figures.py"),
        noise=noise_option,
        runs=f"{OUT}/runs/{{dataset}}/{{model}}",
        folder=subpath(output[0], parent=True),
    shell:
        "python {params.script:q} --runs {input.runs:q} --runs-dir {params.runs:q}"
        " --dataset {wildcards.dataset:q} --model {wildcards.model:q}"
        " --comparison {input.comparison:q} --tuning {input.tuning:q} {params.noise} --output-dir {params.folder:q} 2> {log:q}"
