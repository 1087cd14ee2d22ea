# The simulator: published speed numbers -> calibration -> what it says of the numbers that it has not seen, and of
# hardware that nobody here has. Nothing is run on a GPU, and each job takes seconds.
S = f"{R}/simulate"
PUBLISHED = sorted(str(path) for path in Path("reports/published").glob("*.csv"))
TWO_NODES = ["ib-ndr-2node", "ib-ndr-2node-p2p-off"]


rule simulate_rows:
    input:
        PUBLISHED,
    output:
        f"{S}/rows.csv",
    log:
        f"{R}/logs/simulate-rows.log",
    conda:
        "../../envs/pipeline.yaml"
    shell:
        "ladder simulate rows --published reports/published --out {output:q} 2> {log:q}"


rule calibrate:
    """Fit the default calibration anew: one node from the 28 rows, then the cost of two nodes from 405B's."""
    input:
        f"{S}/rows.csv",
    output:
        one=f"{S}/one-node.json",
        all=f"{S}/calibration.json",
    log:
        f"{R}/logs/calibrate.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        links=TWO_NODES,
        hold=[f"{link}.switch=2" for link in TWO_NODES],
    shell:
        "(ladder calibrate {input:q} --out {output.one:q} && ladder calibrate {input:q} --start {output.one:q} "
        "--links {params.links:q} --hold {params.hold:q} --name published --out {output.all:q}) 2> {log:q}"


rule validate:
    """Predictions against every published row that the calibration has not seen, and against this run's benchmark."""
    input:
        tracking=f"{R}/tracking.json",
        rows=f"{S}/rows.csv",
        calibration=f"{S}/calibration.json",
        bench=[f"{R}/bench/{name}.sha256" for name in PLAN.bench],
    output:
        f"{S}/validation/record.json",
    log:
        f"{R}/logs/validate.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        run=RUN,
        bench=[record for job in PLAN.bench.values() for record in job["records"]],
    shell:
        "ladder simulate validate --rows {input.rows:q} --calibration {input.calibration:q} --bench {params.bench:q} "
        "--run {params.run:q} --record {output:q} 2> {log:q}"


rule study:
    """Where each wiring wins: models, links, degrees and batches that no single team can run."""
    input:
        tracking=f"{R}/tracking.json",
        calibration=f"{S}/calibration.json",
    output:
        f"{S}/study/record.json",
    log:
        f"{R}/logs/study.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        run=RUN,
    shell:
        "ladder simulate study --calibration {input.calibration:q} --run {params.run:q} --record {output:q} 2> {log:q}"


rule whatif:
    """The tables of the what-if page, which computes in the browser."""
    input:
        PUBLISHED,
        measured=sorted(
            str(path) for path in Path("reports/measured").rglob("network-*.json")
        ),
        calibration=f"{S}/calibration.json",
    output:
        "reports/whatif.html",
    log:
        f"{R}/logs/whatif.log",
    conda:
        "../../envs/pipeline.yaml"
    shell:
        "ladder simulate page --calibration {input.calibration:q} --published reports/published "
        "--measured reports/measured --out {output:q} 2> {log:q}"
