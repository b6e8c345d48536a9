"use strict";
(() => {
	const main = document.querySelector("main"), status = document.getElementById("status");
	const message = document.getElementById("message"), pause = document.getElementById("pause");
	const source = new URL(location.href);
	source.searchParams.set("format", "fragment");
	let paused = false, timer = 0;

	function tell(state, text) {
		status.className = state;
		message.textContent = text;
	}

	// The server has escaped all names in the fragment. A fragment that comes while text is selected is left out.
	async function refresh() {
		clearTimeout(timer);
		const began = performance.now();
		try {
			const answer = await fetch(source, {cache: "no-store"});
			if (!answer.ok) throw new Error(answer.statusText);
			const html = await answer.text();
			if (paused) return;
			if (getSelection().isCollapsed) {
				const focused = [...main.querySelectorAll("a")].indexOf(document.activeElement);
				main.innerHTML = html;
				main.querySelectorAll("a")[focused]?.focus();
			}
			tell("live", "live");
		} catch {
			tell("lost", "no answer, trying again");
		}
		// A page of very many hosts takes the server long.
		const rest = Math.max(1000, 10 * (performance.now() - began));
		if (!paused && !document.hidden) timer = setTimeout(refresh, rest);
	}

	pause.hidden = false;
	pause.addEventListener("click", () => {
		paused = !paused;
		pause.textContent = paused ? "Resume" : "Pause";
		clearTimeout(timer);
		if (paused) tell("", "paused");
		else refresh();
	});
	document.addEventListener("visibilitychange", () => {
		clearTimeout(timer);
		if (!document.hidden && !paused) refresh();
	});
	timer = setTimeout(refresh, 1000);
})();
