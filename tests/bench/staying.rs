//! An agent that stays and echoes, by the Agent Client Protocol: it does as little as one can, so that
//! what is measured is the gateway's.

use std::io::{Result, Write, stdin, stdout};

fn main() -> Result<()> {
    let (mut out, mut sessions) = (stdout(), 0);
    for line in stdin().lines() {
        let line = line?;
        let behind = |name: &str| line.split_once(name).map_or("", |(_, rest)| rest);
        let (id, _) = behind("\"id\":").split_once(',').unwrap_or_default();
        let (method, _) = behind("\"method\":\"").split_once('"').unwrap_or_default();
        let result = match method {
            "initialize" => {
                r#"{"protocolVersion":1,"agentCapabilities":{"loadSession":true}}"#.to_owned()
            }
            "session/new" => {
                sessions += 1;
                format!(r#"{{"sessionId":"s{sessions}"}}"#)
            }
            "session/prompt" => r#"{"stopReason":"end_turn"}"#.to_owned(),
            _ => continue,
        };
        let mut news = String::new();
        if method == "session/prompt" {
            let (session, _) = behind("\"sessionId\":").split_once(',').unwrap_or_default();
            // What the client of the benchmark says has neither quotes nor brackets in it.
            let (block, _) = behind("\"prompt\":[").split_once(']').unwrap_or_default();
            news = format!(
                "{{\"jsonrpc\":\"2.0\",\"method\":\"session/update\",\"params\":{{\"sessionId\":{session},\
                 \"update\":{{\"sessionUpdate\":\"agent_message_chunk\",\"content\":{block}}}}}}}\n"
            );
        }
        news += &format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n");
        out.write_all(news.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}
