// Before the first paint: the theme this browser was set to, else what the system prefers.
{
  const chosen = localStorage.getItem("punch-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
