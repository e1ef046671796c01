#!/usr/bin/env bash
# The wheel away from the checkout, in an environment of its own: the commands without any extra in an empty folder, each extra by
# itself, then the tests, from a copy, on what was installed (the copy's package is a link to it).
# Usage: tests/wheel.sh PYTHON CONSTRAINTS FOLDER [options of pytest]; PIP: another installer of the environment, such as "uv pip".
set -euo pipefail
python=$1 constraints=$(realpath "$2") folder=$3
shift 3
rm -rf "$folder"
mkdir -p "$folder/copy" "$folder/empty"
folder=$(realpath "$folder")
git archive HEAD | tar x -C "$folder/copy"
"$python" -m venv "$folder/env"
export VIRTUAL_ENV="$folder/env" PATH="$folder/env/bin:$PATH" OMP_NUM_THREADS=1
unset PYTHONPATH
pip wheel -q --no-deps -w "$folder" "$folder/copy"
wheel=("$folder"/qlib_ext-*.whl)
add() { ${PIP:-pip} install -q -c "$constraints" "$@"; }
say() { printf '\n== %s\n' "$*"; }

cd "$folder/empty"
say "the wheel alone"
add "${wheel[0]}"
qlib-ext --help >help.txt
qlib-ext demo-data market
qlib-ext check-data --provider-uri market
qlib-ext init --provider-uri market --model mlp
qrun workflow.yaml
qlib-ext show latest >shown.txt
if qlib-ext report latest 2>told.txt; then echo "report needs no plotly?" && exit 1; fi
grep "qlib_ext\[report\]" told.txt

say "with report"
add "${wheel[0]}[report]"
qlib-ext report latest --out page.html
${PIP:-pip} uninstall -q -y plotly

say "with daily"
add "${wheel[0]}[daily]"
python -c "from qlib_ext.provider import sessions_after
import pandas as pd
print(sessions_after(pd.Timestamp('2026-09-30'))[0])"
${PIP:-pip} uninstall -q -y exchange_calendars

say "the tests"
add "${wheel[0]}[test]"
cd "$folder/copy"
rm -r qlib_ext
ln -s "$(cd / && python -c "import qlib_ext; print(*qlib_ext.__path__)")" qlib_ext
python -m pytest "$@"
python -m pytest --doctest-modules qlib_ext
python -c "from importlib.metadata import version; import platform
print('Python', platform.python_version(), *(f'{name} {version(name)}' for name in 'torch pandas numpy scipy pyarrow mlflow'.split()))"
