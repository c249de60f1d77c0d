# The gateway alone: no torch, no compiler. Build from the repository's root:
#   docker build -f deploy/gateway.Dockerfile -t massif-gateway .
FROM node:26-slim
ENV NODE_ENV=production
WORKDIR /app
COPY package.json package-lock.json ./
COPY packages/torch/package.json packages/torch/
COPY packages/massif/package.json packages/massif/
RUN npm ci --omit=dev --ignore-scripts
COPY packages packages
USER node
EXPOSE 8080
ENTRYPOINT ["node", "packages/massif/bin/massif.mjs"]
