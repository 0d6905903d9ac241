"""Once a data set and model: tokens."""


rule tokenize:
    input:
        data=f"{OUT}/data/{{dataset}}/dataset.json",
        model=f"{OUT}/models/{{model}}.json",
    output:
        tokens=f"{OUT}/tokens/{{dataset}}/{{model}}.npz",
        description=f"{OUT}/tokens/{{dataset}}/{{model}}.json",
    log:
        f"{OUT}/logs/tokenize/{{dataset}}/{{model}}.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("tokenize_dataset.py"),
        code=lambda w: code("tokenize_dataset.py"),
        data=subpath(input.data, parent=True),
        model=subpath(input.model, strip_suffix=".json"),
        max_length=EXPERIMENT.training.max_length,
    shell:
        "python {params.script:q} --data-dir {params.data:q} --model {params.model:q}"
        " --max-length {params.max_length} --output {output.tokens:q} 2> {log:q}"
