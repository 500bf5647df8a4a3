# An image that serves; docs/serve.md says how to run it, and how to build it for a GPU.
ARG IMAGE=python:3.12-slim
FROM ${IMAGE}
# Where torch comes from, for builds without CUDA; empty for the default index.
ARG TORCH_INDEX=""
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python -m pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} \
        -c constraints.txt '.[serve,gguf]' \
    && useradd --create-home trimtab
USER trimtab
EXPOSE 8000
ENTRYPOINT ["trimtab"]
CMD ["serve", "--help"]
