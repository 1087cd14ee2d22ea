# Rewire the original (a pretrained standard model, or a published checkpoint), then adapt each variant alike.


rule convert:
    input:
        of("convert", "files"),  # the original, unless it comes from elsewhere; the scan that chose the layers
        tracking=f"{R}/tracking.json",
    output:
        model=directory(f"{R}/convert/{{name}}/model"),
        record=f"{R}/convert/{{name}}/record.json",
    log:
        f"{R}/logs/convert-{{name}}.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        run=RUN,
        source=of("convert", "source"),
        flags=of("convert", "flags"),
    shell:
        "ladder convert {params.source:q} {output.model:q} {params.flags} "
        "--run {params.run:q} --record {output.record:q} 2> {log:q}"


rule adapt:
    input:
        tracking=f"{R}/tracking.json",
        checkpoint=of("adapt", "checkpoint"),
        data=of("adapt", "data", "files"),  # conversations, or text
    output:
        model=directory(f"{R}/adapt/{{name}}/model"),
        record=f"{R}/adapt/{{name}}/record.json",
    log:
        f"{R}/logs/adapt-{{name}}.log",
    conda:
        "../../envs/pipeline.yaml"
    resources:
        **place("adapt"),
    params:
        run=RUN,
        launch=of("adapt", "launch"),
        flags=of("adapt", "flags"),  # ... of Recipe (train/methods.py), then of train/options.py
        on=of("adapt", "data", "flag"),
        data=of("adapt", "data", "paths"),
        work=f"{R}/work/adapt-{{name}}",
    shell:
        "{params.launch} adapt {input.checkpoint:q} {output.model:q} {params.on} {params.data:q} {params.flags} "
        "--work {params.work:q} --run {params.run:q} --record {output.record:q} 2>> {log:q}"
