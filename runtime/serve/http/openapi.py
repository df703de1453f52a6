"""openapi.py FROM.yaml VERSION TO.cpp: writes kt::openapi_json(), which gives the file as JSON, as that of VERSION."""
import json
import sys

import yaml

source, version, target = sys.argv[1:]
with open(source, encoding="utf-8") as file:
    interface = yaml.safe_load(file)
interface["info"]["version"] = version
text = json.dumps(interface, ensure_ascii=False, separators=(",", ":"))
with open(target, "w", encoding="utf-8") as file:
    file.write('#include "runtime/serve/http/openapi.h"\n\n'
               f'std::string_view kt::openapi_json() {{ return R"openapi({text})openapi"; }}\n')
