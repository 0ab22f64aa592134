"""Reads OpenMetrics text from stdin by the reference parser, which is strict, and prints it as JSON: what each sample's
family is, and its value. Fails when the text is not as the standard has it."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

samples = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation, f"{family.name} has no HELP"
    for sample in family.samples:
        labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
        name = f"{sample.name}{{{labels}}}"
        assert name not in samples, f"{name} comes twice"
        samples[name] = {"type": family.type, "unit": family.unit, "value": sample.value}
print(json.dumps(samples))
