"""Before a day of work is queued: does a job get a GPU that can train? It makes no output, so it always runs."""


rule gpu_check:
    log:
        f"{OUT}/logs/gpu_check.log",
    retries: 0
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        gpu=int(EXPERIMENT.training.device == "cuda"),
    params:
        script=script("check_gpu.py"),
        code=lambda w: code("check_gpu.py"),
        device=EXPERIMENT.training.device,
        precision=EXPERIMENT.training.precision,
        shared="--allow-shared-gpu" * EXPERIMENT.training.allow_shared_gpu,
        report=f"{OUT}/{SAID['gpu_check']}",
    shell:
        "python {params.script:q} --device {params.device} --precision {params.precision} {params.shared}"
        " --output {params.report:q} > {log:q} 2>&1"
