# NVIDIA GPUs. The wheels bring CUDA's libraries; the host brings the driver and the NVIDIA container toolkit:
#   docker build -f docker/cuda.Dockerfile -t ceeh:cuda .
#   docker run --rm --gpus all --ipc host -v "$PWD/runs:/workspace/runs" -v "$HOME/.cache:/home/ceeh/.cache" \
#       ceeh:cuda fit --config ceeh.yaml
FROM python:3.12-slim-bookworm

# Triton compiles kernels at the first start.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/ceeh
COPY pyproject.toml README.md LICENSE ./
COPY configs ./configs
COPY ceeh ./ceeh
COPY requirements/cuda.txt ./requirements/
RUN pip install --no-cache-dir ".[cuda]" -c requirements/cuda.txt

RUN useradd --create-home ceeh && install -d -o ceeh /workspace
USER ceeh
WORKDIR /workspace
ENTRYPOINT ["ceeh"]
CMD ["--help"]
