/** `format`: patterns whose every match is valid. Where a format has rarer forms (comments in e-mail addresses, leap
 *  seconds), the enforcer writes the common ones only. */

const DAY31 = "(0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])";
const DAY30 = "(0[469]|11)-(0[1-9]|[12]\\d|30)";
const DAY28 = "02-(0[1-9]|1\\d|2[0-8])";
const LEAP = "(\\d\\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29";
const DATE = `(\\d{4}-(${DAY31}|${DAY30}|${DAY28})|${LEAP})`;
const TIME = "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?(Z|[+\\-]([01]\\d|2[0-3]):[0-5]\\d)";
const OCTET = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
/** Without two hyphens in a row, which is where internationalized names begin; at most 62 characters. */
const LABEL = "[A-Za-z0-9]{1,20}(-[A-Za-z0-9]{1,20}){0,2}";
/** Each unit only behind the next larger one: `P1Y2D` is not allowed. */
const DAYS = "(\\d{1,4}Y(\\d{1,4}M(\\d{1,4}D)?)?|\\d{1,4}M(\\d{1,4}D)?|\\d{1,4}D)";
const HOURS = "T(\\d{1,4}H(\\d{1,4}M(\\d{1,4}S)?)?|\\d{1,4}M(\\d{1,4}S)?|\\d{1,4}S)";
const H16 = "[0-9a-fA-F]{1,4}";

export const formats: Readonly<Record<string, string>> = {
  date: `^${DATE}$`,
  time: `^${TIME}$`,
  "date-time": `^${DATE}T${TIME}$`,
  duration: `^P(${DAYS}(${HOURS})?|${HOURS}|\\d{1,4}W)$`,
  uuid: "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
  ipv4: `^${OCTET}(\\.${OCTET}){3}$`,
  ipv6: `^(${H16}(:${H16}){7}|::|::${H16}(:${H16}){0,5}|${H16}(:${H16}){0,4}::${H16})$`,
  hostname: `^${LABEL}(\\.${LABEL}){0,3}$`,
  email: `^[A-Za-z0-9_+\\-]+(\\.[A-Za-z0-9_+\\-]+)*@${LABEL}(\\.${LABEL}){1,3}$`,
};
