"use strict";
// Filtering, sorting, unfolding and copying: a convenience on top of a page that is complete without it. What is filtered stands in the
// address ("#verdict=held&risk=bias"), so that a view can be sent to somebody.
(() => {
  const form = document.getElementById("controls");
  const cards = [...document.querySelectorAll(".card")];
  const rows = new Map([...document.querySelectorAll("[data-card]")].map((row) => [row.dataset.card, row]));
  const fields = ["risk", "target", "order", "text"];
  const boxes = [...form.querySelectorAll("[name=verdict]")];
  const words = new Map();

  const holds = (card, text) => {
    if (!text) return true;
    if (!words.has(card)) words.set(card, card.textContent.toLowerCase());
    return words.get(card).includes(text);
  };

  const apply = () => {
    const chosen = new FormData(form);
    const verdicts = chosen.getAll("verdict");
    const text = chosen.get("text").trim().toLowerCase();
    for (const card of cards) {
      const { verdict, risk, target } = card.dataset;
      card.hidden = !(
        verdicts.includes(verdict) &&
        [risk, ""].includes(chosen.get("risk")) &&
        [target, ""].includes(chosen.get("target")) &&
        holds(card, text)
      );
      const row = rows.get(card.id);
      if (row) row.hidden = card.hidden;
    }
    const shown = cards.filter((card) => !card.hidden).length;
    form.elements.shown.value = `${shown} of ${cards.length} shown`;
  };

  const sort = () => {
    const key = form.elements.order.value;
    const rank = (card) => `${key === "order" ? "" : card.dataset[key]} ${card.dataset.order}`;
    const compare = (a, b) => rank(a).localeCompare(rank(b), "en", { numeric: true });
    for (const list of document.querySelectorAll(".cards")) {
      list.append(...[...list.querySelectorAll(".card")].sort(compare));
    }
  };

  const write = () => {
    const said = new URLSearchParams();
    const on = boxes.filter((box) => box.checked);
    if (on.length < boxes.length) said.set("verdict", on.map((box) => box.value).join(","));
    for (const name of fields) {
      const field = form.elements[name];
      const usual = field.tagName === "SELECT" ? field.options[0].value : "";
      if (field.value !== usual) said.set(name, field.value);
    }
    history.replaceState(null, "", `#${said.size ? said : "findings"}`);
  };

  const read = () => {
    const said = new URLSearchParams(location.hash.slice(1));
    const verdicts = said.get("verdict")?.split(",");
    for (const box of boxes) box.checked = !verdicts || verdicts.includes(box.value);
    for (const name of fields) {
      const field = form.elements[name];
      const wanted = said.get(name);
      if (field.tagName !== "SELECT") field.value = wanted ?? "";
      else field.selectedIndex = Math.max(0, [...field.options].findIndex((option) => option.value === wanted));
    }
    sort();
    apply();
  };

  const follow = () => {
    const name = location.hash.slice(1);
    if (name.includes("=")) return read();
    const linked = document.getElementById(name);
    let fold = linked?.closest("details");
    if (!fold) return;
    linked.hidden = false;
    for (; fold; fold = fold.parentElement.closest("details")) fold.open = true;
    linked.scrollIntoView();
  };

  const copy = async (button) => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  };

  form.addEventListener("input", () => { apply(); write(); });
  form.elements.order.addEventListener("change", () => { sort(); write(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.unfold.addEventListener("click", ({ target }) => {
    const open = target.textContent === "Expand all";
    for (const part of document.querySelectorAll(".card, .data")) part.open = open;
    target.textContent = open ? "Collapse all" : "Expand all";
  });
  for (const tile of document.querySelectorAll(".tally a")) {
    tile.addEventListener("click", (event) => {
      event.preventDefault();
      location.hash = `verdict=${tile.dataset.verdict}`;
      document.getElementById("findings").scrollIntoView();
    });
  }
  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
  addEventListener("hashchange", follow);
  form.hidden = false;
  apply();
  follow();
})();
