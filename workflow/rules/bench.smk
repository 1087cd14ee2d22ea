# Speed of prefill and decode under tensor parallelism. A benchmark runs alone: it takes all cores. One process times
# several points; each has its own record, which is kept while its settings stay the same, so a killed job goes on
# where it was. The job's output is the list of their digests.


rule bench:
    input:
        tracking=f"{R}/tracking.json",
    output:
        digests=f"{R}/bench/{{name}}.sha256",
    log:
        f"{R}/logs/bench-{{name}}.log",
    conda:
        "../../envs/pipeline.yaml"
    threads: workflow.resource_settings.cores or 1  # none are given where jobs are submitted to a cluster
    resources:
        **place("bench"),
    params:
        run=RUN,
        launch=of("bench", "launch"),
        flags=of("bench", "flags"),  # what the profile sets of ladder/bench/options.py
        records=of("bench", "records"),
        row=of("bench", "row"),
        out=subpath(output.digests, strip_suffix=".sha256"),
    shell:
        "OMP_NUM_THREADS=1 {params.launch} bench {params.flags} --replace --out {params.out:q} --run {params.run:q} "
        "2>> {log:q} && sha256sum {params.records:q} > {output.digests:q}"
