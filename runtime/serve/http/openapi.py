"""openapi.py FROM.yaml TO.cpp: writes kt::openapi_json(), which gives the file as JSON."""
import json
import sys

import yaml

with open(sys.argv[1], encoding="utf-8") as file:
    text = json.dumps(yaml.safe_load(file), ensure_ascii=False, separators=(",", ":"))
with open(sys.argv[2], "w", encoding="utf-8") as file:
    file.write('#include "runtime/serve/http/openapi.h"\n\n'
               f'std::string_view kt::openapi_json() {{ return R"openapi({text})openapi"; }}\n')
