# An image that serves; docs/serve.md says how to run it, and how to build it for a GPU.
FROM python:3.12-slim
# Where torch comes from, beside PyPI, whose own build needs CUDA: PyTorch's builds for CPUs, or
# such as .../whl/cu130. They have a local version (+cpu), which pip prefers to the plain one.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python -m pip install --no-cache-dir --extra-index-url "${TORCH_INDEX}" \
        -c constraints.txt '.[serve,gguf]' \
    && useradd --create-home trimtab
USER trimtab
EXPOSE 8000
ENTRYPOINT ["trimtab"]
CMD ["serve", "--help"]
