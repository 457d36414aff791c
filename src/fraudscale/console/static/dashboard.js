// What the page needs of a dashboard's JSON, as Grafana exports it.

const TONES = { red: "bad", orange: "warn", blue: "info", purple: "model", green: "good" };

function readLimit(thresholds) {
  const step = thresholds?.steps?.find(({ value }) => value !== null);
  return step ? { value: step.value, tone: TONES[step.color] ?? "warn" } : null;
}

function readPanel({ title, description, type, targets, fieldConfig, options, links }) {
  const { defaults, overrides = [] } = fieldConfig;
  const dashed = new Set(overrides
    .filter(({ properties }) => properties.some(({ id }) => id === "custom.lineStyle"))
    .map(({ matcher }) => matcher.options));
  return {
    title, about: description ?? "", kind: type, unit: defaults.unit, limit: readLimit(defaults.thresholds),
    // A figure of whole numbers has no decimals, and holds until the next one.
    stepped: defaults.custom?.lineInterpolation === "stepAfter" || defaults.decimals === 0,
    names: options?.textMode === "name",
    runbooks: (links ?? []).map(({ title: name, url }) => ({ name, url: runbook(name, url) })),
    queries: targets.map(({ refId, expr, legendFormat }) => ({
      expr, legend: legendFormat ?? "", dashed: dashed.has(refId),
    })),
  };
}

/** A page of this checkout is served here; one elsewhere is elsewhere. */
export function runbook(name, url) {
  const elsewhere = /^https?:/.test(url) && !new URL(url).hostname.endsWith(".example");
  return elsewhere ? url : `/docs/runbooks/${name}.md`;
}

/** Rows of panels, marks, and the namespace that is chosen. */
export function read({ panels, annotations, templating }) {
  const rows = [];
  for (const panel of panels) {
    if (panel.type === "row") rows.push({ title: panel.title, panels: [] });
    else rows.at(-1).panels.push(readPanel(panel));
  }
  return {
    rows,
    marks: annotations.list.map(({ name, expr, titleFormat, iconColor, step }) => ({
      name, expr, title: titleFormat, tone: TONES[iconColor] ?? "info", step: Number.parseFloat(step),
    })),
    namespace: templating.list.find(({ name }) => name === "namespace")?.current.value ?? "ml-model",
  };
}
