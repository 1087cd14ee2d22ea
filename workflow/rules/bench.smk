# Speed of prefill and decode under tensor parallelism. A benchmark runs alone: it takes all cores.


rule bench:
    input:
        tracking=f"{R}/tracking.json",
    output:
        record=f"{R}/bench/{{name}}.json",
    log:
        f"{R}/logs/bench-{{name}}.log",
    conda:
        "../../envs/pipeline.yaml"
    threads: workflow.cores or 1
    resources:
        gpu=of("bench", "gpus"),
    params:
        run=RUN,
        launch=of("bench", "launch"),
        flags=of("bench", "flags"),
        row=of("bench", "row"),
    shell:
        "OMP_NUM_THREADS=1 {params.launch} bench {params.flags} --run {params.run} --record {output.record} 2> {log}"
