// Jest transform: Node's own type stripping, so lines and columns stay what they are in the source.
const { createHash } = require('node:crypto');
const { stripTypeScriptTypes } = require('node:module');

module.exports = {
  process: (source) => ({ code: stripTypeScriptTypes(source, { mode: 'strip' }) }),
  getCacheKey: (source, path, options) =>
    createHash('sha256').update(process.version).update(path).update(source).update(options.configString).digest('hex'),
};
