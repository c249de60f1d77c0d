# The gateway alone: no torch, no compiler. Build from the repository's root:
#   docker build -f deploy/gateway.Dockerfile -t massif-gateway .
FROM node:26-slim
# The second keeps bin/massif.mjs from starting another Node with the environment that torch wants.
ENV NODE_ENV=production OMP_WAIT_POLICY=passive
WORKDIR /app
COPY package.json package-lock.json ./
COPY packages/torch/package.json packages/torch/
COPY packages/studio/package.json packages/studio/
COPY packages/massif/package.json packages/massif/
# What is optional is a Node of our own, which the image has.
RUN npm ci --omit=dev --omit=optional --ignore-scripts
COPY packages packages
USER node
EXPOSE 8080
ENTRYPOINT ["node", "packages/massif/bin/massif.mjs"]
