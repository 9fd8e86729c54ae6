%% The peer: Erlang/OTP's ssh application, the stack of the exchange's own console, which does no work at all.
%% Environment: PEER_DIR has sys/ (host key) and user/ (authorized_keys), reply.txt is what every command answers.
%% Prints its port.
-module(console_peer).
-export([start/0]).

start() ->
    Dir = os:getenv("PEER_DIR"),
    {ok, Raw} = file:read_file(filename:join(Dir, "reply.txt")),
    Reply = unicode:characters_to_list(Raw),
    {ok, _} = application:ensure_all_started(ssh),
    Options = [{system_dir, filename:join(Dir, "sys")}, {user_dir, filename:join(Dir, "user")},
               {auth_methods, "publickey"}, {parallel_login, true}, {max_sessions, 10000}, {backlog, 1024},
               {exec, {direct, fun(_) -> {ok, Reply} end}},
               {shell, fun(_, _) -> spawn(fun() -> io:setopts([{encoding, unicode}]), lines(Reply) end) end}],
    {ok, Daemon} = ssh:daemon({127, 0, 0, 1}, 0, Options),
    {ok, Info} = ssh:daemon_info(Daemon),
    io:format("~p~n", [proplists:get_value(port, Info)]),
    receive stop -> ok end.

lines(Reply) ->
    case io:get_line("admin@ds1@ecss1:/$ ") of
        Line when is_list(Line) -> io:put_chars(Reply), lines(Reply);
        _ -> ok
    end.
