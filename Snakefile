# The table of contents: configuration, stages, targets. `snakemake --cores all reports/all`
import os
import sys

from snakemake.utils import min_version

min_version("9.10")

if not os.path.samefile(workflow.basedir, "."):
    sys.exit(
        f"error: the working directory is {os.getcwd()}, but paths are relative to the folder of the Snakefile: run "
        f"snakemake in {workflow.basedir}, without --directory, or in a copy of that folder"
    )

if not workflow.overwrite_configfiles:

    configfile: "config/default.yaml"


# Used with `--sdm apptainer` only; envs/Containerfile says how it is made.
container: "envs/ladder.sif"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/adapt.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/sensitivity.smk"
include: "workflow/rules/bench.smk"
include: "workflow/rules/simulate.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    track,
    site,


rule all:
    default_target: True
    input:
        "reports/all",
