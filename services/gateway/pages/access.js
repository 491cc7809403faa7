/** The form that takes the bearer token, and opens where the gateway asks for one. */

const KEPT = "counterhint-bearer";

export class Access {
  /**
   * @param {HTMLFormElement} form with the input `bearer` and the checkbox `keep-bearer`.
   * @param {function()} onUse is called when the reader wants a token to be used.
   */
  constructor(form, onUse) {
    this.details = form.querySelector("details");
    this.input = form.querySelector("#bearer");
    this.keep = form.querySelector("#keep-bearer");
    const kept = sessionStorage.getItem(KEPT);
    if (kept !== null) {
      this.input.value = kept;
      this.keep.checked = true;
    }
    this.keep.addEventListener("change", () => this.#store());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#store();
      this.details.open = false; // a refusal opens it again
      this.details.querySelector("summary").focus();
      onUse();
    });
  }

  /** The token, or "". */
  get bearer() {
    return this.input.value.trim();
  }

  /** Opens the form; the reader's place on the page stays. */
  ask() {
    this.details.open = true;
  }

  #store() {
    if (this.keep.checked && this.bearer) sessionStorage.setItem(KEPT, this.bearer);
    else sessionStorage.removeItem(KEPT);
  }
}
