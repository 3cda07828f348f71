"""Run by the peer's interpreter: carry out the [config, out] pairs of a JSON file."""

import json
import sys

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

for config, out in json.load(open(sys.argv[1])):  # noqa: PTH123, SIM115
    with open(config) as file:  # noqa: PTH123
        parsed = MergeConfiguration.model_validate(yaml.safe_load(file))
    options = MergeOptions(copy_tokenizer=False, quiet=True, random_seed=0, out_shard_size=10**12)
    run_merge(parsed, out, options=options)
