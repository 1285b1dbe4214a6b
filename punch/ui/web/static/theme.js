// Sets the theme before the page is first painted: the one chosen in this browser, else the system's.
{
  const chosen = localStorage.getItem("punch-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
