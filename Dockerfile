# The image that launch/cluster/kubernetes.yaml runs: this repository in /realness, installed.
#   docker build -t realness .
ARG CUDA_VERSION=13.0.2
FROM nvidia/cuda:${CUDA_VERSION}-devel-ubuntu24.04

# procps has the pkill of the Kubernetes example; torch.compile needs Python's headers and g++.
# Versions are the distribution's: it removes old ones, so that pinned ones soon do not install.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        g++ \
        procps \
        python3 \
        python3-dev \
        python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv
WORKDIR /realness

# torch first, in a layer that only a new lock file rebuilds: the kernels are compiled against it.
COPY requirements.lock ./
RUN pip install --no-cache-dir -c requirements.lock torch==2.13.0 \
    && pip install --no-cache-dir -c requirements.lock setuptools==84.2.1 wheel==0.48.0 ninja==1.13.2

COPY . .
ARG CUDA_ARCHITECTURES="8.0 9.0+PTX"
RUN TORCH_CUDA_ARCH_LIST="$CUDA_ARCHITECTURES" REALNESS_BUILD=require \
    pip install --no-cache-dir --no-build-isolation -c requirements.lock ".[dali]" \
    && rm -rf build realness.egg-info

CMD ["realness", "--help"]
