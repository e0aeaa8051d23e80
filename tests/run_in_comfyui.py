"""The checks of several scripts in one ComfyUI: `python run_in_comfyui.py COMFYUI_ROOT in_comfyui in_comfyui_ays`.

Each script has a folder of files to itself. Prints one JSON object: by script what it prints on its own."""
import importlib
import json
import os
import sys
import tempfile

scripts, found = sys.argv[2:], {}
for name in scripts:
    os.environ["ODEON_FOLDER"] = tempfile.mkdtemp()
    script = importlib.import_module(name)
    found[name] = importlib.import_module("comfyui_pack").checked(vars(script))
sys.__stdout__.write("\n" + json.dumps(found) + "\n")
