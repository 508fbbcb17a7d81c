// The numbers as files, made here.

const SHOWN = { lesions: ["number", "probability", "diameter_mm", "volume_ml", "mean_hu", "hu_minus_liver", "first_slice", "last_slice", "key_slice"] };
const table = (rows) => rows.map((row) => row.join(",") + "\n").join("");

// The files' text, as the folder of results holds them.
const FILES = {
  slices: () => ["slices.csv", table([["slice", "z_mm", "liver_area_mm2", "tumour_probability"],
    ...data.rows.map(([slice, z, area, p]) => [slice, z.toFixed(3), area.toFixed(1), p === null ? "" : p.toFixed(6)])])],
  lesions: () => ["lesions.csv", table([[...SHOWN.lesions, "x_mm", "y_mm", "z_mm"],
    ...data.lesions.map((lesion) => [...SHOWN.lesions.map((name) => lesion[name] ?? ""), ...lesion.centre_mm])])],
  result: () => ["result.json", JSON.stringify(data.result, null, 2) + "\n"],
};

function keep(name) {
  const [file, text] = FILES[name]();
  const href = URL.createObjectURL(new Blob([text]));
  Object.assign(document.createElement("a"), { href, download: `${data.result.case}-${file}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}
