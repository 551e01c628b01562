/**
 * Judges a value by a JSON Schema, independently of what made the schema. Knows the keywords that ours uses and throws
 * on any other, so that none is ignored in silence.
 */
type Schema = Readonly<Record<string, unknown>>;

const annotations = new Set(['$schema', 'title', 'description', 'default']);

function isSchema(value: unknown): value is Schema {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function typeOf(value: unknown): string {
  if (Array.isArray(value)) return 'array';
  return value === null ? 'null' : typeof value;
}

function hasType(value: unknown, type: unknown): boolean {
  return type === 'integer' ? Number.isInteger(value) : typeOf(value) === type;
}

type Keyword = (argument: unknown, value: unknown, schema: Schema) => boolean;

/** A keyword says nothing about values of other types than its own. */
const keywords: Readonly<Record<string, Keyword>> = {
  type: (type, value) => hasType(value, type),
  const: (expected, value) => value === expected,
  enum: (accepted, value) => (accepted as unknown[]).includes(value),
  minimum: (least, value) => typeof value !== 'number' || value >= Number(least),
  maximum: (most, value) => typeof value !== 'number' || value <= Number(most),
  pattern: (pattern, value) => typeof value !== 'string' || new RegExp(String(pattern), 'u').test(value),
  required: (names, value) => !isSchema(value) || (names as string[]).every((name) => Object.hasOwn(value, name)),
  allOf: (schemas, value) => (schemas as Schema[]).every((schema) => satisfies(schema, value)),
  not: (schema, value) => !satisfies(schema as Schema, value),
  properties: (properties, value) =>
    !isSchema(value) ||
    Object.entries(properties as Record<string, Schema>).every(
      ([name, schema]) => !Object.hasOwn(value, name) || satisfies(schema, value[name]),
    ),
  additionalProperties: (rule, value, schema) => {
    const known = Object.keys(schema['properties'] ?? {});
    const others = isSchema(value) ? Object.keys(value).filter((name) => !known.includes(name)) : [];
    if (rule === false) return others.length === 0;
    return others.every((name) => satisfies(rule as Schema, (value as Schema)[name]));
  },
};

export function satisfies(schema: Schema, value: unknown): boolean {
  return Object.entries(schema).every(([name, argument]) => {
    if (annotations.has(name)) return true;
    const keyword = keywords[name];
    if (keyword === undefined) throw new Error(`unknown keyword ${name}`);
    return keyword(argument, value, schema);
  });
}
