-- What one worker asks of limits and budgets in one turn of its loop, as one atomic step.
--
-- KEYS[1]  hash: `opens`, the time before which nothing is reserved, for workers still replay
-- KEYS[2]  sorted set: leases; `i:` + instance or `p:` + place, scored by when it ends
-- KEYS[3]  hash: reservations whose lease ended, by id, until they are closed: their money is held
-- KEYS[4]  hash of this instance: open reservations by id, and `seq`, the number of its last batch
-- KEYS[5]  hash of this place: its escrow, by meter key
-- KEYS[6…] meters
-- ARGV[1]  MessagePack: [prefix, instance, place, seq, meters, guards, ops, wishes,
--            sweep]
--            meters   [[kind, metric, limit, window | hard, burst], …] beside KEYS[6…]
--                     kinds: 1 window, 2 bucket, 3 slots, 4 … 7 budget of a day, week, month, total
--            guards   [[place in meters, …], …]
--            ops      [[RESERVE, id, guard, tokens, nano, at, adopt], …] and so on, see `perform`
--                     `at`: reserve whatever there is room for, as of then (0: now); `adopt`: of the
--                     escrow. CLOSE with `at` 0 looks up what was reserved, and when
--            wishes   [[place in meters, escrow wanted], …]
--            sweep    whether to end leases: once a second is enough
-- Returns  MessagePack: [now, results, mirrors, escrows]
--            results  one for each op: a time (reserved then), true, or a list that says why not
--            mirrors  flat: place, remaining, microseconds until all of it is there; for header lines
--            escrows  flat: place, what this place holds now
--
-- Times are microseconds, by Redis' clock. Money is nano-dollars in decimal text, for numbers here
-- are doubles; inside it is millions of dollars and the rest, both exact. The arithmetic is that of
-- fastgw/_ext/_limits.pyx, and one suite of properties holds both to it.

local RESERVE, CLOSE, EXTEND, SPENT, LOOK, RENEW, RETURN, INHERIT = 1, 2, 3, 4, 5, 6, 7, 8
local WINDOW, BUCKET, SLOTS, DAILY, WEEKLY, MONTHLY, TOTAL = 1, 2, 3, 4, 5, 6, 7
local REQUESTS, TOKENS, CONCURRENT = 0, 1, 2
local FIXED = 5

local CELLS = 128
local HEADER = '<dddddddddddd'
local HEADER_SIZE = 96
local SOON = 1000000
local DAY = 86400000000
local HOUR = 3600000000
local INSTANCE_LEASE = 30 * 1000000
local PLACE_LEASE = 600 * 1000000
local MILLION = 1e15 -- nano-dollars
local FOREVER_HIGH, FOREVER_LOW = 4611, 686018427387903
local FOREVER = 2 ^ 62
local EXACT = 2 ^ 53

local floor, max, min = math.floor, math.max, math.min
local call, pack, unpack_ = redis.call, struct.pack, struct.unpack

local function clock()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

local ask = cmsgpack.unpack(ARGV[1])
local prefix, instance, place, specs, guards = ask[1], ask[2], ask[3], ask[5], ask[6]
local wall = clock()

-- Money --------------------------------------------------------------------------------------------

local function money(text)
  if #text <= 15 then
    return 0, tonumber(text)
  end
  return tonumber(text:sub(1, -16)), tonumber(text:sub(-15))
end

local function text_of(high, low)
  if high == 0 then
    return string.format('%.0f', low)
  end
  return string.format('%.0f%015.0f', high, low)
end

local function plus(high, low, more_high, more_low)
  low, high = low + more_low, high + more_high
  if low >= MILLION then
    return high + 1, low - MILLION
  end
  return high, low
end

local function minus(high, low, less_high, less_low)
  low, high = low - less_low, high - less_high
  if low < 0 then
    return high - 1, low + MILLION
  end
  return high, low
end

-- Arithmetic of buckets ----------------------------------------------------------------------------

-- a * b / m as quotient and rest, exactly, though the product may be wider than a double.
local function product(a, b, m)
  if a * b < EXACT then
    local whole = floor(a * b / m)
    return whole, a * b - whole * m
  end
  local fold = floor(b / m)
  b = b - fold * m
  local base = 2
  while m * base * 4 <= EXACT do
    base = base * 2
  end
  local digits, count, rest = {}, 0, a
  while rest > 0 do
    count = count + 1
    digits[count] = rest % base
    rest = floor(rest / base)
  end
  local quotient, left = 0, 0
  for at = count, 1, -1 do
    left = left * base + digits[at] * b
    local whole = floor(left / m)
    quotient = quotient * base + whole
    left = left - whole * m
  end
  return a * fold + quotient, left
end

-- Take units and a rest of them (in units times microseconds) from a bucket's debt.
local function lower_debt(m, units, rest)
  m.units, m.rest = m.units - units, m.rest - rest
  if m.rest < 0 then
    m.units, m.rest = m.units - 1, m.rest + m.window
  end
  if m.units < 0 then
    m.units, m.rest = 0, 0
  end
end

-- Microseconds until so much debt has drained, rounded up; -1: never.
local function drained_in(m, units, rest)
  if units < 0 or (units == 0 and rest == 0) then
    return 0
  end
  if m.limit <= 0 then
    return -1
  end
  local wait, part = product(units, m.window, m.limit)
  local more = floor(rest / m.limit)
  part = part + rest - more * m.limit
  return min(wait + more + math.ceil(part / m.limit), FOREVER)
end

-- Meters -------------------------------------------------------------------------------------------

local opened = {} -- by key
local behind = false -- the clock has been set back: a meter has seen a later time

local function make(m, spec)
  m.latest, m.expires, m.escrow = 0, 0, 0
  m.kind, m.metric = spec[1], spec[2]
  if m.kind == WINDOW then
    m.window, m.tail, m.total, m.last, m.value, m.bare = spec[4], 0, 0, 0, 0, true
  elseif m.kind == BUCKET then
    m.window, m.units, m.rest = spec[4], 0, 0
  elseif m.kind == SLOTS then
    m.total = 0
  else
    m.missing = true
    m.start, m.stop = 0, m.kind == TOTAL and FOREVER or 0
    m.used_high, m.used_low, m.open_high, m.open_low = 0, 0, 0, 0
  end
end

local function read(m, data)
  local a, b, c, d, e, f, g
  m.kind, m.metric, m.latest, m.expires, m.escrow, a, b, c, d, e, f, g = unpack_(HEADER, data)
  if m.kind == WINDOW then
    m.window, m.tail, m.total, m.last, m.value = a, b, c, d, e
  elseif m.kind == BUCKET then
    m.window, m.limit, m.units, m.rest = a, b, c, d
  elseif m.kind == SLOTS then
    m.total = a
  else
    m.start, m.stop, m.used_high, m.used_low, m.open_high, m.open_low = a, b, c, d, e, f
    m.missing = g == 1 or nil
  end
end

local function ready(m)
  if m.kind == WINDOW then
    m.cells, m.changed = { [m.last] = m.value }, {}
    m.cell = floor((m.window + CELLS - 2) / (CELLS - 1))
    m.tail_end = (m.tail + 1) * m.cell - 1 + m.window
  end
  m.mine = 0
  if m.latest > wall then
    behind = true
  end
end

-- Give the meter of a key, nil when there is none and nobody says how to make it.
local function open_meter(key, spec)
  local m = opened[key]
  if not m then
    local data = call('GETRANGE', key, 0, HEADER_SIZE - 1)
    if data == '' and not spec then
      return nil
    end
    m = { key = key }
    if data ~= '' then
      read(m, data)
    else
      make(m, spec)
    end
    ready(m)
    opened[key] = m
  end
  if spec and not m.spec then
    m.spec = spec
    if m.kind >= DAILY then
      m.limit_high, m.limit_low = money(spec[3])
      m.hard = spec[4]
    else
      if m.kind == BUCKET and m.limit ~= spec[3] then
        m.dirty = true
      end
      m.limit, m.burst = spec[3], spec[5]
    end
  end
  return m
end

local places = {}

local function meter(at)
  local m = places[at]
  if not m then
    m = open_meter(KEYS[FIXED + at], specs[at])
    m.place = at
    places[at] = m
  end
  return m
end

local guarded = {}

-- The meters of a guard, brought to the time of this call.
local function meters_of(number)
  local ms = guarded[number]
  if not ms then
    ms = {}
    for at, place_ in ipairs(guards[number]) do
      ms[at] = meter(place_)
    end
    guarded[number] = ms
  end
  return ms
end

-- What this place holds of a meter's escrow: only asked where it could matter.
local function look_mine(m)
  if not m.looked then
    m.looked = true
    m.mine = tonumber(call('HGET', KEYS[5], m.key) or 0)
  end
end

local function set_mine(m, amount)
  m.seen = nil
  m.escrow = m.escrow + amount - m.mine
  m.mine = amount
  m.mine_changed, m.dirty = true, true
end

local function cell_at(m, index)
  local value = m.cells[index]
  if not value then
    local data = ''
    if not m.bare then
      local at = HEADER_SIZE + index * 8
      data = call('GETRANGE', m.key, at, at + 7)
    end
    value = #data == 8 and unpack_('<d', data) or 0
    m.cells[index] = value
  end
  return value
end

local function set_cell(m, index, value)
  m.cells[index] = value
  m.changed[index] = true
  m.dirty = true
end

-- Hinnant, "chrono-Compatible Low-Level Date Algorithms"; days count from 1970-01-01.
local function month_start(days, further)
  local shifted = days + 719468
  local era = floor(shifted / 146097)
  local of_era = shifted - era * 146097
  local year = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524)
    - floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + floor(year / 4) - floor(year / 100))
  local month = floor((5 * of_year + 2) / 153) + further
  if month == 12 then
    month, year = 0, year + 1
    if year == 400 then
      year, era = 0, era + 1
    end
  end
  of_year = floor((153 * month + 2) / 5)
  return era * 146097 + year * 365 + floor(year / 4) - floor(year / 100) + of_year - 719468
end

local function roll(m, now)
  if now < m.stop then
    return
  end
  if m.stop > 0 then
    m.used_high, m.used_low, m.open_high, m.open_low = 0, 0, 0, 0
  end
  local day = floor(now / DAY)
  if m.kind == WEEKLY then
    day = floor((day + 3) / 7) * 7 - 3
    m.stop = (day + 7) * DAY
  elseif m.kind == MONTHLY then
    m.stop = month_start(day, 1) * DAY
    day = month_start(day, 0)
  else
    m.stop = (day + 1) * DAY
  end
  m.start = day * DAY
  m.dirty = true
end

local function advance(m, now)
  if m.kind == WINDOW then
    while m.tail_end <= now do
      m.dirty = true
      if m.total == 0 then
        m.tail = floor((now - m.window + 1) / m.cell)
        m.tail_end = (m.tail + 1) * m.cell - 1 + m.window
        return
      end
      local index = m.tail % CELLS
      local value = cell_at(m, index)
      if value ~= 0 then
        m.total = m.total - value
        set_cell(m, index, 0)
      end
      m.tail = m.tail + 1
      m.tail_end = m.tail_end + m.cell
    end
  elseif m.kind == BUCKET then
    if now > m.latest then
      if m.units > 0 or m.rest > 0 then
        lower_debt(m, product(m.limit, now - m.latest, m.window))
      end
      m.latest = now
    end
  elseif m.kind >= DAILY then
    roll(m, now)
  end
end

-- What is left of a budget when so much more is taken, as (high, low); high < 0: not enough.
local function budget_left(m, high, low)
  local left_high, left_low = minus(m.limit_high, m.limit_low, m.used_high, m.used_low)
  left_high, left_low = minus(left_high, left_low, m.open_high, m.open_low)
  local others = m.escrow - m.mine
  if others > 0 then
    local millions = floor(others / MILLION)
    left_high, left_low = minus(left_high, left_low, millions, others - millions * MILLION)
  end
  return minus(left_high, left_low, high, low)
end

local function has_room(m, amount, high, low)
  if m.kind == WINDOW then
    return m.total + m.escrow - m.mine + amount <= m.limit
  elseif m.kind == BUCKET then
    local over = m.units + m.escrow - m.mine + amount - m.burst
    return over < 0 or (over == 0 and m.rest == 0)
  elseif m.kind == SLOTS then
    return m.total + m.escrow - m.mine + amount <= m.limit
  end
  return not m.hard or (budget_left(m, high, low)) >= 0
end

local function fits(m, now, amount, high, low)
  advance(m, now)
  m.latest = max(m.latest, now)
  if has_room(m, amount, high, low) then
    return true
  end
  if m.escrow > 0 and not m.looked then
    look_mine(m)
    return has_room(m, amount, high, low)
  end
  return false
end

-- Let go of own escrow as far as what is taken goes beyond what is free.
local function use_mine(m, over)
  if over > 0 and m.mine > 0 then
    set_mine(m, m.mine - min(over, m.mine))
  end
end

local function take(m, now, amount, high, low, adopt)
  m.dirty = true
  if adopt then
    look_mine(m)
    use_mine(m, m.kind < DAILY and amount or high * MILLION + low)
  end
  if m.kind == WINDOW then
    local index = floor(now / m.cell) % CELLS
    use_mine(m, m.total + m.escrow + amount - m.limit)
    set_cell(m, index, cell_at(m, index) + amount)
    m.total = m.total + amount
  elseif m.kind == BUCKET then
    use_mine(m, m.units + m.escrow + amount - m.burst + (m.rest > 0 and 1 or 0))
    m.units = m.units + amount
  elseif m.kind == SLOTS then
    use_mine(m, m.total + m.escrow + amount - m.limit)
    m.total = m.total + amount
  else
    if m.mine > 0 then
      local left_high, left_low = budget_left(m, high, low)
      -- budget_left counts own escrow as free: what it lacks without it is used of it
      use_mine(m, m.mine - min(left_high * MILLION + left_low, m.mine))
    end
    m.open_high, m.open_low = plus(m.open_high, m.open_low, high, low)
  end
end

-- `taken` at `at` turned out to be `used`; money as (high, low).
local function correct(m, at, now, taken, used, taken_high, taken_low, used_high, used_low)
  m.dirty = true
  if m.kind == WINDOW then
    local cell = floor(at / m.cell)
    if used > taken then
      now = max(now, m.latest)
      m.latest = now
      advance(m, now)
      local index = floor(now / m.cell) % CELLS
      set_cell(m, index, cell_at(m, index) + used - taken)
      m.total = m.total + used - taken
    elseif cell >= m.tail and used < taken then
      local index = cell % CELLS
      set_cell(m, index, cell_at(m, index) - (taken - used))
      m.total = m.total - (taken - used)
    end
  elseif m.kind == BUCKET then
    advance(m, now)
    if used >= taken then
      m.units = m.units + used - taken
    else
      local units, rest = product(m.limit, m.latest - at, m.window)
      units, rest = taken - used - units, -rest
      if rest < 0 then
        units, rest = units - 1, rest + m.window
      end
      if units >= 0 then
        lower_debt(m, units, rest)
      end
    end
  elseif m.kind == SLOTS then
    m.total = m.total - (taken - used)
  elseif at >= m.start and at < m.stop then
    m.open_high, m.open_low = minus(m.open_high, m.open_low, taken_high, taken_low)
    m.used_high, m.used_low = plus(m.used_high, m.used_low, used_high, used_low)
    if m.used_high > FOREVER_HIGH or (m.used_high == FOREVER_HIGH and m.used_low > FOREVER_LOW) then
      m.used_high, m.used_low = FOREVER_HIGH, FOREVER_LOW
    end
  end
end

-- What is left, as a client may be told: escrow is nobody's.
local function remaining(m)
  if m.kind == WINDOW then
    return max(m.limit - m.total - m.escrow, 0)
  elseif m.kind == BUCKET then
    return max(m.burst - m.units - m.escrow - (m.rest > 0 and 1 or 0), 0)
  elseif m.kind == SLOTS then
    return max(m.limit - m.total - m.escrow, 0)
  end
  local mine = m.mine
  m.mine = 0
  local high, low = budget_left(m, 0, 0)
  m.mine = mine
  return high < 0 and '0' or text_of(high, low)
end

-- How long until all of it is there again; -1: never.
local function reset_in(m, now)
  if m.kind == WINDOW then
    if m.total == 0 then
      return 0
    end
    local cell = floor(now / m.cell)
    while cell > m.tail and cell_at(m, cell % CELLS) == 0 do
      cell = cell - 1
    end
    return (cell + 1) * m.cell - 1 + m.window - now
  elseif m.kind == BUCKET then
    return drained_in(m, m.units, m.rest)
  elseif m.kind == SLOTS then
    return m.total > 0 and SOON or 0
  end
  return m.kind == TOTAL and -1 or m.stop - now
end

-- How long until so much fits; 0: it does, -1: never.
local function retry_in(m, now, amount, high, low)
  if fits(m, now, amount, high, low) then
    return 0
  end
  local others = m.escrow - m.mine
  if m.kind == WINDOW then
    if amount > m.limit then
      return -1
    elseif amount + others > m.limit then
      return SOON
    end
    local over, cell = m.total + others + amount - m.limit, m.tail
    while true do
      over = over - cell_at(m, cell % CELLS)
      if over <= 0 then
        return (cell + 1) * m.cell - 1 + m.window - now
      end
      cell = cell + 1
    end
  elseif m.kind == BUCKET then
    if amount > m.burst then
      return -1
    elseif amount + others > m.burst then
      return SOON
    end
    return drained_in(m, m.units + others + amount - m.burst, m.rest)
  elseif m.kind == SLOTS then
    return amount > m.limit and -1 or SOON
  end
  if high < m.limit_high or (high == m.limit_high and low <= m.limit_low) then
    local left_high, left_low = minus(m.limit_high, m.limit_low, m.used_high, m.used_low)
    if (minus(left_high, left_low, high, low)) >= 0 then
      return SOON -- only open reservations stand in the way
    end
    return reset_in(m, now)
  end
  return -1
end

local function save(m)
  local keep
  if m.kind == WINDOW then
    keep = max(4 * m.window, HOUR)
    -- the header has the newest cell; it joins the others when a newer one takes its place
    local last = floor(m.latest / m.cell) % CELLS
    if last ~= m.last then
      m.changed[m.last] = true
    end
    for index in pairs(m.changed) do
      if index ~= last then
        call('SETRANGE', m.key, HEADER_SIZE + index * 8, pack('<d', m.cells[index]))
      end
    end
    call('SETRANGE', m.key, 0, pack(HEADER, m.kind, m.metric, m.latest, m.expires, m.escrow,
      m.window, m.tail, m.total, last, cell_at(m, last), 0, 0))
  elseif m.kind == BUCKET then
    keep = max(4 * m.window, HOUR)
    call('SET', m.key, pack(HEADER, m.kind, m.metric, m.latest, m.expires, m.escrow,
      m.window, m.limit, m.units, m.rest, 0, 0, 0), 'KEEPTTL')
  elseif m.kind == SLOTS then
    keep = HOUR
    call('SET', m.key, pack(HEADER, m.kind, m.metric, m.latest, m.expires, m.escrow,
      m.total, 0, 0, 0, 0, 0, 0), 'KEEPTTL')
  else
    keep = 40 * DAY
    call('SET', m.key, pack(HEADER, m.kind, m.metric, m.latest, m.expires, m.escrow, m.start,
      m.stop, m.used_high, m.used_low, m.open_high, m.open_low, m.missing and 1 or 0), 'KEEPTTL')
  end
  if m.expires < wall + keep then
    m.expires = wall + 2 * keep
    call('SETRANGE', m.key, 24, pack('<d', m.expires))
    call('PEXPIRE', m.key, floor(2 * keep / 1000))
  end
end

-- Reservations -------------------------------------------------------------------------------------

local fresh = {} -- reservations of this batch to be written: their records, by id
local kept = {} -- what the ids that are closed in this batch had before: records, by id
local gone = {} -- those that are closed, by id
local wall_text = string.format('%.0f', wall)
local joined = {} -- the keys of a guard, by its number

-- A reservation as it is kept: when it was made, tokens, nano-dollars, keys of its meters.
local function record_of(number, now, tokens, nano)
  local keys = joined[number]
  if not keys then
    local list = {}
    for at, place_ in ipairs(guards[number]) do
      list[at] = KEYS[FIXED + place_]
    end
    keys = table.concat(list, ' ')
    joined[number] = keys
  end
  local time = now == wall and wall_text or string.format('%.0f', now)
  return time .. ' ' .. (tokens < 1e14 and tokens or string.format('%.0f', tokens))
    .. ' ' .. nano .. ' ' .. keys
end

-- Its parts: at, tokens, nano, and the keys as one text.
local function parts_of(record)
  local at, tokens, nano, keys = record:match('^(%d+) (%d+) (%d+) ?(.*)$')
  return tonumber(at), tonumber(tokens), nano, keys
end

local function share(m, requests, tokens, slots)
  if m.metric == REQUESTS then
    return requests
  elseif m.metric == TOKENS then
    return tokens
  end
  return slots
end

local function latest_of(ms, now)
  for at = 1, #ms do
    now = max(now, ms[at].latest)
  end
  return now
end

local function refusal(ms, now, tokens, high, low)
  local worst, longest = 0, 0
  for at = 1, #ms do
    local m = ms[at]
    local wait = retry_in(m, now, share(m, 1, tokens, 1), high, low)
    if wait ~= 0 and longest ~= -1 and (wait == -1 or wait > longest) then
      worst, longest = at, wait
    end
  end
  local m = ms[worst]
  local used = m.kind >= DAILY and text_of(m.used_high, m.used_low) or '0'
  return { 'refused', worst - 1, longest, used }
end

local function missing_of(ms)
  local missing = { 'missing' }
  for at = 1, #ms do
    if ms[at].missing then
      missing[#missing + 1] = at - 1
    end
  end
  return missing
end

local opens = tonumber(call('HGET', KEYS[1], 'opens') or -1)

-- Whether there is room everywhere: what is usual is decided here, the rest by `fits`.
local function all_fit(ms, now, tokens, high, low)
  for index = 1, #ms do
    local m = ms[index]
    local kind = m.kind
    if m.seen ~= now then
      advance(m, now)
      m.latest, m.seen = max(m.latest, now), now
      if kind == WINDOW then
        m.index = floor(now / m.cell) % CELLS
        cell_at(m, m.index)
      elseif kind >= DAILY then
        m.simple = m.limit_high == 0 and m.used_high == 0 and m.open_high == 0
      end
    end
    local fine
    if kind == WINDOW or kind == SLOTS then
      fine = m.total + m.escrow + (m.metric == TOKENS and tokens or 1) <= m.limit
    elseif kind >= DAILY then
      fine = m.simple and high == 0 and low <= m.limit_low - m.used_low - m.open_low - m.escrow
    end
    if not fine and not fits(m, now, share(m, 1, tokens, 1), high, low) then
      return false
    end
  end
  return true
end

local function take_all(ms, now, tokens, high, low)
  for index = 1, #ms do
    local m = ms[index]
    local kind = m.kind
    local amount = m.metric == TOKENS and tokens or 1
    if m.mine > 0 then
      take(m, now, amount, high, low)
    elseif kind == WINDOW then
      local cell = m.index
      m.cells[cell] = m.cells[cell] + amount
      m.changed[cell] = true
      m.total = m.total + amount
    elseif kind == SLOTS then
      m.total = m.total + 1
    elseif kind == BUCKET then
      m.units = m.units + amount
    else
      m.open_high, m.open_low = plus(m.open_high, m.open_low, high, low)
      m.simple = m.simple and m.open_high == 0
    end
    m.dirty = true
  end
end

local function reserve(id, number, tokens, nano, at, adopt)
  local ms = meters_of(number)
  local high, low = money(nano)
  local now = wall
  if not at then
    if wall < opens or opens < 0 then
      return { 'closed', max(opens - wall, SOON) }
    end
    if behind then
      now = latest_of(ms, wall)
    end
    for index = 1, #ms do
      if ms[index].missing then
        return missing_of(ms)
      end
    end
    if not all_fit(ms, now, tokens, high, low) then
      return refusal(ms, now, tokens, high, low)
    end
    take_all(ms, now, tokens, high, low)
  else
    now = latest_of(ms, at > 0 and at or wall)
    if fresh[id] or (not gone[id] and call('HEXISTS', KEYS[4], id) == 1) then
      return now
    end
    for index = 1, #ms do
      local m = ms[index]
      advance(m, now)
      m.latest = max(m.latest, now)
      take(m, now, share(m, 1, tokens, 1), high, low, adopt)
    end
  end
  fresh[id] = record_of(number, now, tokens, nano)
  return now
end

-- Close what a lease no longer covered: slots and windows are back, its money is held.
local function close_held(id, ms, requests, tokens, high, low, forgone)
  local record = call('HGET', KEYS[3], id)
  if not record then
    return false
  end
  call('HDEL', KEYS[3], id)
  local at, _, nano = parts_of(record)
  local held_high, held_low = money(nano)
  for index = 1, #ms do
    local m = ms[index]
    if m.kind >= DAILY then
      roll(m, wall)
      if at >= m.start and at < m.stop then
        m.used_high, m.used_low = minus(m.used_high, m.used_low, held_high, held_low)
        if m.used_high < 0 then
          m.used_high, m.used_low = 0, 0
        end
        if not forgone[index - 1] then
          m.used_high, m.used_low = plus(m.used_high, m.used_low, high, low)
        end
        m.dirty = true
      end
    elseif m.kind ~= SLOTS and not forgone[index - 1] then
      correct(m, wall, wall, 0, share(m, requests, tokens, 0), 0, 0, 0, 0)
    end
  end
  return true
end

local function close(id, number, at, taken, taken_nano, requests, tokens, nano, places_forgone)
  local ms = meters_of(number)
  local high, low = money(nano)
  local forgone = {}
  for _, index in ipairs(places_forgone) do
    forgone[index] = true
  end
  local record = fresh[id] or (not gone[id] and kept[id])
  if not record then
    return close_held(id, ms, requests, tokens, high, low, forgone)
  end
  if at == 0 then
    at, taken, taken_nano = parts_of(record)
  end
  fresh[id] = nil
  gone[id] = true
  local taken_high, taken_low = money(taken_nano)
  for index = 1, #ms do
    local m = ms[index]
    local was = m.metric == TOKENS and taken or 1
    if forgone[index - 1] then
      correct(m, at, wall, was, 0, taken_high, taken_low, 0, 0)
    elseif m.kind == SLOTS then
      m.total, m.dirty = m.total - 1, true
    elseif m.metric ~= REQUESTS or requests ~= 1 then
      correct(m, at, wall, was, m.metric == TOKENS and tokens or requests, taken_high, taken_low,
        high, low)
      m.simple = false
      m.seen = nil
    end
  end
  return true
end

-- Take more tokens and money for a reservation that is open, or nothing.
local function extend(id, number, at, tokens, nano, more_tokens, more_nano)
  if gone[id] or not (fresh[id] or call('HEXISTS', KEYS[4], id) == 1) then
    return { 'gone' }
  end
  local ms = meters_of(number)
  local high, low = money(more_nano)
  local now = latest_of(ms, wall)
  local function concerns(m)
    return m.metric == TOKENS or (m.kind >= DAILY and at >= m.start and at < m.stop)
  end
  for index = 1, #ms do
    local m = ms[index]
    advance(m, now)
    if concerns(m) and not fits(m, now, more_tokens, high, low) then
      return refusal(ms, now, more_tokens, high, low)
    end
  end
  for index = 1, #ms do
    if concerns(ms[index]) then
      take(ms[index], now, more_tokens, high, low)
    end
  end
  local all_high, all_low = money(nano)
  all_high, all_low = plus(all_high, all_low, high, low)
  fresh[id] = record_of(number, at, tokens + more_tokens, text_of(all_high, all_low))
  return now
end

-- Read what is about to be closed, all at once.
local function read_closing(ops)
  local ids = {}
  for _, op in ipairs(ops) do
    if op[1] == CLOSE then
      ids[#ids + 1] = op[2]
    end
  end
  for from = 1, #ids, 1000 do
    local records = call('HMGET', KEYS[4], unpack(ids, from, min(from + 999, #ids)))
    for at, record in ipairs(records) do
      kept[ids[from + at - 1]] = record
    end
  end
end

local function write_reservations(seq)
  local ids = {}
  for id in pairs(gone) do
    if kept[id] then
      ids[#ids + 1] = id
    end
  end
  for from = 1, #ids, 1000 do
    call('HDEL', KEYS[4], unpack(ids, from, min(from + 999, #ids)))
  end
  local fields, count = { 'seq', seq }, 2
  for id, record in pairs(fresh) do
    fields[count + 1], fields[count + 2] = id, record
    count = count + 2
  end
  for from = 1, count, 1000 do
    call('HSET', KEYS[4], unpack(fields, from, min(from + 999, count)))
  end
end

-- Escrow and leases --------------------------------------------------------------------------------

-- What a place that is gone held: it may have spent it, and did if nobody says otherwise. Slots are
-- free, for who held them is gone; spend comes back with its journal.
local function forfeit(from)
  local held = call('HGETALL', from)
  for at = 1, #held, 2 do
    local m, amount = open_meter(held[at]), tonumber(held[at + 1])
    if m then
      advance(m, wall)
      m.latest = max(m.latest, wall)
      m.escrow, m.dirty = max(m.escrow - amount, 0), true
      if m.kind == WINDOW then
        correct(m, wall, wall, 0, amount)
      elseif m.kind == BUCKET then
        m.units = m.units + amount
      end
    end
  end
  call('DEL', from)
end

local function reclaim(from)
  local held = call('HGETALL', from)
  for at = 1, #held, 2 do
    if held[at] ~= 'seq' then
      local made, tokens, nano, keys = parts_of(held[at + 1])
      local high, low = money(nano)
      local has_money = false
      for key in keys:gmatch('%S+') do
        local m = open_meter(key)
        if m then
          advance(m, wall)
          has_money = has_money or m.kind >= DAILY
          correct(m, made, wall, share(m, 1, tokens, 1), 0, high, low, high, low)
        end
      end
      if has_money then
        call('HSET', KEYS[3], held[at], held[at + 1])
      end
    end
  end
  call('DEL', from)
end

local function end_leases()
  for _, name in ipairs(call('ZRANGEBYSCORE', KEYS[2], '-inf', wall, 'LIMIT', 0, 4)) do
    call('ZREM', KEYS[2], name)
    if name:sub(1, 2) == 'i:' then
      reclaim(prefix .. 'open:' .. name:sub(3))
    else
      forfeit(prefix .. 'escrow:' .. name:sub(3))
    end
  end
end

local function renew()
  call('ZADD', KEYS[2], wall + INSTANCE_LEASE, 'i:' .. instance, wall + PLACE_LEASE, 'p:' .. place)
  return true
end

-- Put some aside for this place, where there is plenty.
local function put_aside(m, wanted)
  look_mine(m)
  if m.missing or m.mine >= wanted then
    return
  end
  advance(m, wall)
  local room
  if m.kind == WINDOW then
    room = m.limit - m.total - m.escrow
  elseif m.kind == BUCKET then
    room = m.burst - m.units - m.escrow
  elseif m.kind == SLOTS then
    room = m.limit - m.total - m.escrow
  else
    local mine = m.mine
    m.mine = 0
    local high, low = budget_left(m, 0, 0)
    m.mine = mine
    room = high * MILLION + low
  end
  if room >= 4 * wanted then
    set_mine(m, wanted)
  end
end

-- The ops ------------------------------------------------------------------------------------------

local function look(number, tokens, nano)
  local ms = meters_of(number)
  local high, low = money(nano)
  local now = latest_of(ms, wall)
  local seen = {}
  for index = 1, #ms do
    local m = ms[index]
    advance(m, now)
    look_mine(m)
    local retry = retry_in(m, now, share(m, 1, tokens, 1), high, low)
    local used, open = '0', '0'
    if m.kind >= DAILY then
      used, open = text_of(m.used_high, m.used_low), text_of(m.open_high, m.open_low)
    elseif m.kind == SLOTS then
      open = text_of(0, m.total)
    end
    seen[index] = { remaining(m), reset_in(m, now), retry, used, open, m.mine, m.start or 0 }
  end
  return seen
end

-- What the store knows to be spent since `start`; never lowers what is known here.
local function spent(m, start, nano)
  roll(m, max(wall, m.latest))
  local high, low = money(nano)
  m.missing, m.dirty, m.seen = nil, true, nil
  if m.start == start
    and (high > m.used_high or (high == m.used_high and low > m.used_low)) then
    m.used_high, m.used_low = high, low
  end
  return true
end

local function perform(op)
  local what = op[1]
  if what == RESERVE then
    return reserve(op[2], op[3], op[4], op[5], op[6], op[7])
  elseif what == CLOSE then
    return close(op[2], op[3], op[4], op[5], op[6], op[7], op[8], op[9], op[10])
  elseif what == EXTEND then
    return extend(op[2], op[3], op[4], op[5], op[6], op[7], op[8])
  elseif what == SPENT then
    return spent(meter(op[2]), op[3], op[4])
  elseif what == LOOK then
    return look(op[2], op[3], op[4])
  elseif what == RENEW then
    return renew()
  elseif what == RETURN then
    look_mine(meter(op[2]))
    set_mine(meter(op[2]), 0)
    return true
  elseif what == INHERIT then
    forfeit(KEYS[5])
    return true
  end
  return { 'unknown' }
end

local results, mirrors, escrows = {}, {}, {}

if ask[9] then
  end_leases()
end
read_closing(ask[7])
for at, op in ipairs(ask[7]) do
  results[at] = perform(op)
end
for _, wish in ipairs(ask[8]) do
  put_aside(meter(wish[1]), wish[2])
  escrows[#escrows + 1] = wish[1]
  escrows[#escrows + 1] = meter(wish[1]).mine
end
for at, m in pairs(places) do
  if m.metric <= TOKENS then
    local now = max(wall, m.latest)
    advance(m, now)
    mirrors[#mirrors + 1] = at
    mirrors[#mirrors + 1] = remaining(m)
    mirrors[#mirrors + 1] = reset_in(m, now)
  end
  if m.mine_changed then
    escrows[#escrows + 1] = at
    escrows[#escrows + 1] = m.mine
    if m.mine > 0 then
      call('HSET', KEYS[5], m.key, string.format('%.0f', m.mine))
    else
      call('HDEL', KEYS[5], m.key)
    end
  end
end
for _, m in pairs(opened) do
  if m.dirty then
    save(m)
  end
end
write_reservations(ask[4])
return cmsgpack.pack({ wall, results, mirrors, escrows })
