# Sourced by demo.sh and test.sh: make_environment FOLDER EXTRA makes a virtual environment with the package in it.
# An interrupted installation is taken up again; a finished one is used as it is until setup.cfg or the pins change.

make_environment() {
    local folder=$1 extra=$2 stamp
    stamp=$(cat setup.cfg pyproject.toml scripts/constraints.txt | cksum)
    if [ "$(cat "$folder/installed" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    echo "Installing into $folder (the first time this takes a few minutes) ..."
    "${PYTHON:-python3}" -m venv "$folder"
    "$folder/bin/python" -m pip install -qq --upgrade pip
    # torch first and pinned, so that no other package pulls a build of its own choice
    "$folder/bin/python" -m pip install -qq --constraint scripts/constraints.txt torch
    "$folder/bin/python" -m pip install -qq --constraint scripts/constraints.txt --editable ".[$extra]"
    echo "$stamp" >"$folder/installed"
}
