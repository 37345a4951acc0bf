// What can be drawn of a window's result.

export function measuresOf(result) {
  if (typeof result === "number") return [];
  const found = [];
  for (const [name, value] of Object.entries(result ?? {})) {
    if (typeof value === "number") found.push(name);
    else if (value && typeof value === "object") {
      found.push(...Object.keys(value).filter((inner) => typeof value[inner] === "number").map((inner) => `${name}.${inner}`));
    }
  }
  return found;
}

export function valueOf(result, chosen) {
  if (typeof result === "number") return result;
  const found = (chosen ?? "").split(".").reduce((value, name) => value?.[name], result);
  const whole = result?.[chosen];
  return typeof whole === "number" ? whole : typeof found === "number" ? found : null;
}
