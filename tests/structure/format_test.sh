#!/bin/sh
# Formatting is held only where clang-format 14 is: other versions differ in details. 77: skipped.
format=$(command -v clang-format-14 || command -v clang-format) || { echo "clang-format is absent"; exit 77; }
"$format" --version | grep -q 'version 14\.' || { echo "$("$format" --version) is not 14"; exit 77; }
cd "$1" && find kernels runtime launcher tests \( -name '*.h' -o -name '*.cpp' \) -exec "$format" --dry-run --Werror {} +
