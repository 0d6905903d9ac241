"""Learning rates that are tuned: the dev splits, and one job per arm, which tries its grid."""

# Of the trials that are made again, a dev split each.
DEV_AGAIN = [
    f"{OUT}/tune/tokens/{{dataset}}/retry{number}/{{model}}.npz"
    for number in range(1, EXPERIMENT.tune.retry + 1)
]


rule carve_dev:
    input:
        tokens=f"{OUT}/tokens/{{dataset}}/{{model}}.npz",
        data=f"{OUT}/data/{{dataset}}/dataset.json",
    output:
        tokens=f"{OUT}/tune/tokens/{{dataset}}/{{model}}.npz",
        description=f"{OUT}/tune/tokens/{{dataset}}/{{model}}.json",
        again=DEV_AGAIN,
        described=[path.replace(".npz", ".json") for path in DEV_AGAIN],
    log:
        f"{OUT}/logs/carve_dev/{{dataset}}/{{model}}.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("carve_dev.py"),
        code=lambda w: code("carve_dev.py"),
        data=subpath(input.data, parent=True),
        fraction=EXPERIMENT.tune.fraction,
        seed=EXPERIMENT.tune.seed,
    shell:
        "python {params.script:q} --tokens {input.tokens:q} --data-dir {params.data:q} --fraction {params.fraction}"
        " --seed {params.seed} --output {output.tokens:q} {output.again:q} 2> {log:q}"


rule tune:
    input:
        tokens=f"{OUT}/tune/tokens/{{dataset}}/{{model}}.npz",
        again=DEV_AGAIN,
        model=f"{OUT}/models/{{model}}.json",
    output:
        TUNED,
    log:
        f"{OUT}/logs/tune/{{dataset}}/{{model}}/{{arm}}.log",
    priority: 1
    conda:
        "../envs/environment.yaml"
    threads: processes
    resources:
        gpu=gpus,
        nodes=1,  # that have all its GPUs
        checkpoint_interval_s=60,
        rank_timeout_s=600,
    params:
        script=script("tune.py"),
        code=lambda w: code("tune.py"),
        settings=lambda w: as_json(EXPERIMENT.trial_settings(w.dataset, w.model, w.arm)),
        model=subpath(input.model, strip_suffix=".json"),
        scoring=scoring,
        trials=f"{OUT}/tune/trials/{{dataset}}/{{model}}/{{arm}}",
        rates=lambda w: EXPERIMENT.trials[w.arm],
        seed=EXPERIMENT.tune.seed,
        extensions=EXPERIMENT.tune.max_extensions * EXPERIMENT.tune.extend,
    shell:
        # exec: no shell stands between a signal and the training process.
        "exec python {params.script:q} --settings {params.settings:q} --rates {params.rates} --seed {params.seed}"
        " --extend {params.extensions} --tokens {input.tokens:q} --again {input.again:q} --model {params.model:q}"
        " --trials-dir {params.trials:q} --output {output:q}"
        " {params.scoring} --threads {threads} --checkpoint-interval {resources.checkpoint_interval_s}"
        " --rank-timeout {resources.rank_timeout_s} 2> {log:q}"
