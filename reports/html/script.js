"use strict";
// Filtering, sorting and unfolding: a convenience on top of a page that is complete without it.
(() => {
  const form = document.getElementById("controls");
  const cards = [...document.querySelectorAll(".card")];
  const words = new Map(cards.map((card) => [card, card.textContent.toLowerCase()]));

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
        words.get(card).includes(text)
      );
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

  const unfold = () => {
    const linked = document.getElementById(location.hash.slice(1));
    if (linked?.matches(".card")) {
      linked.open = true;
      linked.scrollIntoView();
    }
  };

  form.addEventListener("input", apply);
  form.elements.order.addEventListener("change", sort);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", unfold);
  form.hidden = false;
  apply();
  unfold();
})();
