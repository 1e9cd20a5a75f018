"use strict";
// The alignment browser. Every text of a run enters the page as a text node, never as markup.
(() => {
  const AT_ONCE = 20;
  const data = JSON.parse(document.getElementById("browser-data").textContent);
  const splits = Object.keys(data);
  const find = (name) => document.getElementById(name);
  const [split, query, disagreeing, list, more] =
    ["split", "query", "disagreeing", "utterances", "more"].map(find);
  let found = [];

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // A name breaks where page.py lets it.
  function row(className, name, title) {
    const made = element("tr", className);
    const head = element("th", "name");
    for (const part of name.match(/[^/_+. ]*[/_+. ]|[^/_+. ]+/g)) head.append(part, element("wbr"));
    head.scope = "row";
    head.title = title || name;
    made.append(head);
    return made;
  }

  function cell(putIn, heard, said) {
    const made = element("td");
    if (putIn) made.append(element("span", "extra", "+" + putIn.split(" ").join(" +")), " ");
    if (said === null) return made;
    if (heard === said) made.append(heard);
    else if (heard) made.append(element("span", "wrong", heard));
    else made.append(element("span", "gone", "∅"));
    return made;
  }

  function choices(pieces) {
    const made = element("td");
    for (const piece of pieces) {
      for (const [text, percent] of piece.choices) {
        const line = element("div");
        line.append(element("span", text === piece.piece ? "gold" : "", text), " " + percent);
        made.append(line);
      }
    }
    return made;
  }

  function utterance(entry) {
    const made = element("article", "utterance");
    const speaker = entry.speaker ? ", speaker " + entry.speaker : "";
    made.append(element("h4", "", entry.id + speaker));
    const table = element("table");
    const reference = row("reference", "said");
    for (const word of entry.words) reference.append(element("td", "", word));
    table.append(reference);
    if (entry.teacher.length) {
      const teacher = row("teacher", "teacher, %");
      for (const pieces of entry.teacher) teacher.append(choices(pieces));
      table.append(teacher);
    }
    for (const run of entry.runs) {
      const line = row("", run.name, run.full);
      run.cells.forEach(([putIn, heard], place) =>
        line.append(cell(putIn, heard, place < entry.words.length ? entry.words[place] : null)));
      table.append(line);
    }
    made.append(table);
    return made;
  }

  function matches(entry, text) {
    if (disagreeing.checked && new Set(entry.runs.map((run) => run.cells.join("|"))).size < 2) return false;
    const heard = entry.runs.flatMap((run) => run.cells.flat());
    return !text || [entry.id, entry.speaker, entry.words.join(" "), ...heard].some(
      (part) => part.toLowerCase().includes(text));
  }

  function showMore() {
    const shown = list.childElementCount;
    list.append(...found.slice(shown, shown + AT_ONCE).map(utterance));
    more.hidden = list.childElementCount >= found.length;
  }

  function search() {
    const all = data[split.value] || [];
    const text = query.value.trim().toLowerCase();
    found = all.filter((entry) => matches(entry, text));
    find("count").textContent = found.length + " of " + all.length + " utterances";
    list.replaceChildren();
    showMore();
  }

  for (const name of splits) split.append(new Option(name, name));
  if (!splits.length) return;
  find("search").hidden = false;
  find("search").addEventListener("submit", (event) => event.preventDefault());
  for (const input of [split, query, disagreeing]) input.addEventListener("input", search);
  more.addEventListener("click", showMore);
  search();
})();
