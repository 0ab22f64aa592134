"""Says of each line of stdin, a JSON document, whether it is as a definition of a JSON Schema has it: an empty line, or what
is wrong. The schema itself is checked first.

usage: json_schema.py SCHEMA DEFINITION
"""

import json
import sys

from jsonschema import Draft202012Validator, RefResolver

with open(sys.argv[1], encoding="utf-8") as file:
    schema = json.load(file)
Draft202012Validator.check_schema(schema)
assert sys.argv[2] in schema["$defs"], f"no definition {sys.argv[2]}"
validator = Draft202012Validator(
    {"$ref": f"{schema['$id']}#/$defs/{sys.argv[2]}"}, resolver=RefResolver(schema["$id"], schema)
)
for line in sys.stdin:
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(json.loads(line))]
    print("; ".join(errors))
