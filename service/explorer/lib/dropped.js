/** What the user drops on the page. Knows no page element. */

/**
 * The files that are dropped, and those below dropped folders but hidden ones, in the order of their names. A file of a folder
 * knows its `path`, as `new/7.png`.
 */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean); // Only now: they are gone after the event.
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  return (await Promise.all(entries.map(filesOf))).flat();
}

async function filesOf(entry) {
  if (entry.isFile) {
    const file = await new Promise((found, failed) => { entry.file(found, failed); });
    return [Object.assign(file, { path: entry.fullPath.slice(1) })];
  }
  const reader = entry.createReader();
  const below = [];
  let some;
  do {
    some = await new Promise((found, failed) => { reader.readEntries(found, failed); }); // A hundred or so at a time.
    below.push(...some);
  } while (some.length);
  const visible = below.filter(({ name }) => !name.startsWith("."));
  return (await Promise.all(visible.sort((a, b) => (a.name < b.name ? -1 : 1)).map(filesOf))).flat();
}
