// The REST endpoint's description, from /openapi.json.
const element = (tag, ...parts) => {
  const made = document.createElement(tag);
  made.append(...parts);
  return made;
};

function table(head, lines) {
  const made = element("table", element("thead", element("tr", ...head.map((text) => element("th", text)))));
  made.append(element("tbody", ...lines.map((line) => element("tr", ...line.map((text) => element("td", text))))));
  const scroll = element("div", made);
  scroll.className = "scroll";
  return scroll;
}

const nameOf = (schema) => schema.$ref.split("/").pop();

function typeOf(schema) {
  if (schema.$ref) return nameOf(schema);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.join(" | ");
  return schema.type === "array" ? `list of ${typeOf(schema.items)}` : schema.type;
}

function fields(schemas, name) {
  const lines = Object.entries(schemas[name].properties).map(([key, schema]) => [key, typeOf(schema), schema.description ?? ""]);
  return [element("h2", name), element("p", schemas[name].description ?? ""), table(["field", "type", "meaning"], lines)];
}

const api = await (await fetch("/openapi.json")).json();
document.getElementById("example").textContent =
  `curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" "${location.origin}/predict?explain=false"`;
const found = [];
for (const [path, methods] of Object.entries(api.paths))
  for (const [method, operation] of Object.entries(methods)) {
    found.push(element("h2", `${method.toUpperCase()} ${path}`), element("p", operation.description ?? ""));
    const parameters = (operation.parameters ?? []).map(({ name, schema, description }) => [
      name, typeOf(schema), `${description ?? ""} Default: ${schema.default}.`,
    ]);
    if (parameters.length) found.push(table(["parameter", "type", "meaning"], parameters));
    if (operation.requestBody) {
      const kinds = Object.keys(operation.requestBody.content).join(", ");
      found.push(element("p", `Body: ${operation.requestBody.description} Content-Type: ${kinds}.`));
    }
    const answers = Object.entries(operation.responses).filter(([code]) => code !== "422");
    found.push(
      table(
        ["status", "type", "meaning"],
        answers.map(([code, { description, content }]) => [
          code, typeOf(content["application/json"].schema), description,
        ]),
      ),
    );
  }
for (const name of Object.keys(api.components.schemas).filter((name) => !/ValidationError/.test(name)))
  found.push(...fields(api.components.schemas, name));
document.getElementById("operations").append(...found);
