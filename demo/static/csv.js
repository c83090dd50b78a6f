// The live minute as CSV: a row for every answer, with the data's own names of the emotions.

const SOURCES = ["face", "voice", "fused"];

export function toCSV(moments, labels) {
  const columns = SOURCES.flatMap((source) => [source, ...labels.map((label) => `${source}_${label}`)]);
  const rows = moments.map((moment) => [
    moment.time.toFixed(2),
    ...SOURCES.flatMap((source) => [
      moment[source]?.label ?? "",
      ...labels.map((label) => moment[source]?.scores[label]?.toFixed(4) ?? ""),
    ]),
    moment.agreement?.toFixed(3) ?? "",
  ]);
  return [["seconds", ...columns, "agreement"], ...rows].map((row) => row.join(",") + "\r\n").join("");
}

export function download(name, blob) {
  const link = Object.assign(document.createElement("a"), { download: name, href: URL.createObjectURL(blob) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
