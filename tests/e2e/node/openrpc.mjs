// Holds an OpenRPC document, on standard input, against the meta-schema of OpenRPC, and prints what is wrong as JSON.
import { readFileSync } from "node:fs";
import jsonSchema from "@json-schema-tools/meta-schema";
import openrpc from "@open-rpc/meta-schema";
import Ajv from "ajv";

const ajv = new Ajv({ strict: false, allErrors: true, validateFormats: false });
// Both say of themselves that their schema is a superset of draft 7 that refers to itself.
const { $schema: _ours, ...schemas } = jsonSchema.default ?? jsonSchema;
for (const $id of ["https://meta.json-schema.tools", "https://meta.json-schema.tools/"]) ajv.addSchema({ ...schemas, $id });
const { $schema: _theirs, ...documents } = openrpc.default ?? openrpc;
const holds = ajv.compile(documents);

const document = JSON.parse(readFileSync(0, "utf8"));
const wrong = holds(document) ? [] : holds.errors.map((error) => `${error.instancePath}: ${error.message}`);
// What the meta-schema can not say of the document: each schema in it must be one.
const schemasIn = (value, path) =>
  value === null || typeof value !== "object"
    ? []
    : Object.entries(value).flatMap(([name, inner]) =>
        name === "schema" ? [[`${path}/${name}`, inner]] : schemasIn(inner, `${path}/${name}`),
      );
for (const [path, schema] of schemasIn(document, "")) {
  try {
    new Ajv({ strict: true, strictTypes: false, validateFormats: false }).compile(schema);
  } catch (error) {
    wrong.push(`${path}: ${error.message}`);
  }
}
console.log(JSON.stringify(wrong));
